"""Fine-tune the teacher on the snapshot."""

from importlib import metadata

from pydantic import BaseModel, ConfigDict

from deployment.prompt import Prompt
from registry.artifacts import Artifact, code_digest
from registry.models import stage_run
from registry.snapshots import Snapshot
from tasks.distill.teacher_cache import cache_name
from tasks.gguf_export.architectures import describe
from tasks.gguf_export.files import read_json
from tasks.gguf_export.plan import plan_types
from tasks.quant.types import QuantType
from tasks.records import snapshot_labels, snapshot_records
from tasks.steps import Place, step
from tasks.training.fit import HISTORY_FILE, Teaching
from tasks.training.loop import History
from tasks.training.plots import plot_losses
from tasks.training.processes import TrainingJob, fit_in_processes
from tasks.training.recipe import DistillRecipe, TrainingRecipe

TRAINING_CODE = (
    "data_checks/contract.py",
    "deployment/prompt.py",
    "deployment/turns.py",
    "tasks/training",
    "tasks/reports",
    "tasks/distill",
    "tasks/quant",
    "tasks/checkpoints",
    "tasks/gguf_export/architectures",
    "tasks/gguf_export/checkpoint.py",
    "tasks/gguf_export/container.py",
    "tasks/gguf_export/files.py",
    "tasks/gguf_export/order.py",
    "tasks/gguf_export/plan.py",
    "tasks/gguf_export/source.py",
    "tasks/cores.py",
    "tasks/train_teacher.py",
    "tasks/distill_student.py",
)


class TrainedModel(BaseModel):
    """A Hugging Face folder and how its training went."""

    model_config = ConfigDict(frozen=True)

    model: Artifact
    history: History


@step(*TRAINING_CODE)
def train_teacher(
    base: Artifact,
    snapshot: Snapshot,
    recipe: TrainingRecipe,
    prompt: Prompt,
    weights: QuantType,
    embedding: QuantType,
    place: Place,
) -> TrainedModel:
    return train_stage("teacher", base, snapshot, recipe, prompt, weights, embedding, place)


def train_stage(
    stage: str,
    base: Artifact,
    snapshot: Snapshot,
    recipe: TrainingRecipe,
    prompt: Prompt,
    weights: QuantType,
    embedding: QuantType,
    place: Place,
    *,
    teacher: Artifact | None = None,
    distill: DistillRecipe | None = None,
) -> TrainedModel:
    """Train from ``base`` into the step's folder, with losses, curve and history logged to a nested MLflow run."""
    out = place.folder / "model"
    place.folder.mkdir(parents=True, exist_ok=True)
    teaching = None
    if teacher and distill:
        name = cache_name(
            teacher=teacher.sha256,
            precision=recipe.precision,
            code=code_digest("tasks/distill", "tasks/training/models.py", "tasks/training/objective.py"),
            libraries=[metadata.version("torch"), metadata.version("transformers")],
            **distill.model_dump(include={"temperature", "cache_top_k", "teacher_bits"}),
        )
        teaching = Teaching(teacher.verify(), distill, place.folder.parent / name)
    plan = plan_types(describe(read_json(base.path / "config.json")), weights=weights, embedding=embedding)
    with stage_run(place.run_id, stage) as log:
        log.log_params(recipe.model_dump() | (distill.model_dump() if distill else {}))
        job = TrainingJob(
            base=base.verify(),
            out=out,
            train_records=snapshot_records(snapshot, "train"),
            validation_records=snapshot_records(snapshot, "validation"),
            labels=snapshot_labels(snapshot),
            prompt=prompt,
            recipe=recipe,
            types={name: tensor.type for name, tensor in plan.items()},
            teaching=teaching,
            title=stage,
        )
        history = fit_in_processes(job, log.log_metric)
        curve = plot_losses(history, place.folder / "losses.png", title=stage)
        log.log_artifact(curve)
        log.log_artifact(out / HISTORY_FILE)
        log.log_metrics({"tokens": history.tokens, "training_seconds": history.seconds}, step=history.steps)
    return TrainedModel(model=Artifact.of(stage, out), history=history)
