"""From a base folder and records to a trained folder: the same steps for the teacher and for the student."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import transformers

from data_checks.contract import LabelSet, Record
from deployment.prompt import Prompt, chat_template
from registry.artifacts import atomic_directory, write_text
from registry.errors import UsageError
from tasks.quant import qat
from tasks.quant.types import QuantType
from tasks.training.augmentation import value_pools, varied
from tasks.training.examples import Example, build_examples
from tasks.training.loop import History, MetricSink, TrainingData, train
from tasks.training.models import add_lora, load_model, load_tokenizer, save_adapter_and_merged, save_full
from tasks.training.objective import Objective
from tasks.training.recipe import DistillRecipe, TrainingRecipe

logger = logging.getLogger(__name__)
HISTORY_FILE = "training_history.json"


class Teaching(NamedTuple):
    """A trained teacher and how the student learns from it."""

    folder: Path
    recipe: DistillRecipe


def fit(
    base: Path,
    out: Path,
    *,
    train_records: Sequence[Record],
    validation_records: Sequence[Record],
    labels: LabelSet,
    prompt: Prompt,
    recipe: TrainingRecipe,
    types: Mapping[str, QuantType],
    on_metric: MetricSink,
    teaching: Teaching | None = None,
    title: str = "training",
) -> History:
    """Fine-tune the model in ``base`` and write a Hugging Face folder to ``out``; with ``teaching``, distil into it.

    A run that was cut short goes on from its checkpoint beside ``out``.

    Args:
        types: weight name -> type in the exported file, followed where the recipe says ``qat``.
        on_metric: called with (name, value, step) as training goes.
    """
    transformers.set_seed(recipe.seed)
    tokenizer = load_tokenizer(base)

    def examples(records: Sequence[Record]) -> list[Example]:
        return build_examples(records, tokenizer, prompt, labels, max_tokens=recipe.max_tokens)

    pools, fixed = value_pools(train_records), None if recipe.vary_entities else examples(train_records)

    def epoch_examples(epoch: int) -> list[Example]:
        return fixed or examples(varied(train_records, pools, seed=recipe.seed, epoch=epoch))

    data = TrainingData(epoch_examples, len(train_records), examples(validation_records), tokenizer.pad_token_id or 0)
    model = load_model(base, bits=recipe.load_bits)
    model.get_input_embeddings().requires_grad_(recipe.train_embedding)
    trained = add_lora(model, recipe.lora) if recipe.lora else model
    if recipe.qat:
        qat.attach(trained, types)

    head_dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
    if teaching is None:
        objective = Objective(trained, head_dtype=head_dtype)
    else:
        mix = teaching.recipe
        teacher = load_model(teaching.folder, bits=mix.teacher_bits).eval().requires_grad_(False)
        _require_same_vocabulary(model, teacher)
        if load_tokenizer(teaching.folder).get_vocab() != tokenizer.get_vocab():
            raise UsageError(
                f"the tokens of {base.name} and {teaching.folder.name} differ, so their logits do not compare; take "
                "bases of one family."
            )
        objective = Objective(
            trained, head_dtype=head_dtype, teacher=teacher, temperature=mix.temperature,
            alpha_kd=mix.alpha_kd, alpha_ce=mix.alpha_ce,
        )  # fmt: skip

    checkpoint = out.parent / f"{out.name}.checkpoint.safetensors"
    history = train(objective, data, recipe, checkpoint=checkpoint, on_metric=on_metric, title=title)
    qat.settle(trained)
    with atomic_directory(out) as temporary:
        if recipe.lora:
            save_adapter_and_merged(trained, base, temporary)
        else:
            save_full(model, base, temporary)
        write_text(temporary / "chat_template.jinja", chat_template(prompt))
        write_text(temporary / HISTORY_FILE, history.model_dump_json(indent=1))
    checkpoint.unlink(missing_ok=True)
    return history


def _require_same_vocabulary(student: transformers.PreTrainedModel, teacher: transformers.PreTrainedModel) -> None:
    sizes = student.config.vocab_size, teacher.config.vocab_size
    if sizes[0] != sizes[1]:
        raise UsageError(
            f"student and teacher need one vocabulary, they have {sizes[0]} and {sizes[1]} tokens; take bases "
            "of one family."
        )
