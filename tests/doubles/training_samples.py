"""A small recipe, and the tiny model's training folded into one call."""

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from deployment.prompts.prompt import Prompt
from registry.records import LabelSet, Record
from tasks.checkpoints.architectures import describe
from tasks.checkpoints.files import read_json
from tasks.gguf.plan import plan_types
from tasks.quant.types import QuantType
from tasks.training.fit import Teaching, fit
from tasks.training.loop import History, MetricSink
from tasks.training.recipe import DistillRecipe, TrainingRecipe

PROMPT = Prompt()
LORA = {"r": 4, "alpha": 8, "dropout": 0.0}
_SETTINGS = {
    "method": "full",
    "load_bits": 32,
    "train_embedding": True,
    "qat": False,
    "precision": "fp32",
    "epochs": 2,
    "learning_rate": 3e-3,
    "warmup_ratio": 0.1,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "batch_size": 4,
    "accumulation": 1,
    "max_tokens": 512,
    "vary_entities": "no",
    "checkpoint_steps": 3,
    "seed": 7,
    "threads": 1,
}


def make_recipe(**changes: object) -> TrainingRecipe:
    return TrainingRecipe.model_validate(_SETTINGS | changes)


def make_teaching(folder: Path, **changes: object) -> Teaching:
    mix = {"temperature": 2.0, "alpha_kd": 0.7, "alpha_ce": 0.3, "teacher_bits": 32}
    return Teaching(folder, DistillRecipe.model_validate(mix | changes), folder.parent / "teacher-answers")


def ignore_metric(name: str, value: float, step: int) -> None:
    pass


def run_fit(
    base: Path,
    out: Path,
    records: Sequence[Record],
    labels: LabelSet,
    recipe: TrainingRecipe,
    *,
    on_metric: MetricSink = ignore_metric,
    teaching: Teaching | None = None,
) -> History:
    """Train on all but the last four records and validate on those, for a Q4_0 file with a Q8_0 embedding."""
    model = describe(read_json(base / "config.json"))
    plan = plan_types(model, weights=QuantType.Q4_0, embedding=QuantType.Q8_0)
    return fit(
        base,
        out,
        train_records=records[:-4],
        validation_records=records[-4:],
        labels=labels,
        prompt=PROMPT,
        recipe=recipe,
        types={name: tensor.type for name, tensor in plan.items()},
        on_metric=on_metric,
        teaching=teaching,
    )


def weights_in(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")
