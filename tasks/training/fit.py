"""From a base folder and records to a trained folder: the same steps for the teacher and for the student."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from accelerate import PartialState
from torch import nn

from deployment.prompts.prompt import Prompt, chat_template, require_turns
from registry.errors import UsageError
from registry.files import atomic_directory, write_text
from registry.records import LabelSet, Record
from tasks.checkpoints.loading import load_tokenizer
from tasks.distill.teacher_cache import TeacherCache
from tasks.quant import qat
from tasks.quant.types import QuantType
from tasks.training.augmentation import value_pools, varied
from tasks.training.checkpoint import final_weights, load_trained, remove_checkpoint, save_trained
from tasks.training.examples import Example, build_examples
from tasks.training.loop import History, MetricSink, TrainingData, train
from tasks.training.models import load_for_training, load_model, make_greedy, save_training
from tasks.training.objective import Objective
from tasks.training.recipe import DistillRecipe, TrainingRecipe
from tasks.training.subwords import Subwords

logger = logging.getLogger(__name__)


class Teaching(NamedTuple):
    """A trained teacher and how the student learns from it.

    ``cache`` is where its answers are kept if the recipe says so.
    """

    folder: Path
    recipe: DistillRecipe
    cache: Path


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
    require_turns(tokenizer, prompt)

    def examples(records: Sequence[Record]) -> list[Example]:
        return build_examples(records, tokenizer, prompt, labels, max_tokens=recipe.max_tokens)

    fixed = None if recipe.changes_records else examples(train_records)
    pools = value_pools(train_records, across_intents=recipe.vary_entities == "any_intent")
    subwords = Subwords(tokenizer, prompt, labels) if recipe.bpe_dropout else None

    def epoch_examples(epoch: int) -> list[Example]:
        if fixed:
            return fixed
        records = train_records
        if recipe.vary_entities != "no":
            records = varied(records, pools, seed=recipe.seed, epoch=epoch)
        found = examples(records)
        return subwords.spelled(found, recipe.bpe_dropout, seed=recipe.seed, epoch=epoch) if subwords else found

    data = TrainingData(epoch_examples, len(train_records), examples(validation_records), tokenizer.pad_token_id or 0)
    model, trained = _trainable(base, recipe, types)
    arithmetic = torch.bfloat16 if recipe.in_bf16 else torch.float32
    objective = Objective(trained, head_dtype=arithmetic, **_teacher(teaching, base, model, tokenizer, arithmetic))

    checkpoint = out.parent / f"{out.name}.checkpoint.safetensors"
    history = train(
        objective,
        data,
        recipe,
        checkpoint=checkpoint,
        on_metric=on_metric,
        teacher_bits=teaching.recipe.bits if teaching else None,
        title=title,
    )
    processes = PartialState()
    gathered = final_weights(checkpoint)
    if recipe.shard:
        save_trained(gathered, trained, write=processes.is_main_process)
    if processes.is_main_process:
        if recipe.shard:
            model, trained = _trainable(base, recipe, types)
            load_trained(gathered, trained)
        qat.settle(trained)
        with atomic_directory(out) as temporary:
            save_training(model, trained, base, temporary)
            make_greedy(temporary)
            write_text(temporary / "chat_template.jinja", chat_template(prompt))
        write_text(history_file(out), history.model_dump_json(indent=1))
        remove_checkpoint(checkpoint)
    processes.wait_for_everyone()
    return history


def history_file(out: Path) -> Path:
    """How the training of the model in ``out`` went: beside it, as its seconds are no part of the model's digest."""
    return out.with_name(f"{out.name}.history.json")


def _trainable(
    base: Path, recipe: TrainingRecipe, types: Mapping[str, QuantType]
) -> tuple[transformers.PreTrainedModel, nn.Module]:
    model, trained = load_for_training(base, recipe)
    if recipe.qat:
        qat.attach(trained, types)
    return model, trained


def _teacher(
    teaching: Teaching | None,
    base: Path,
    student: transformers.PreTrainedModel,
    tokenizer: Any,
    arithmetic: torch.dtype,
) -> dict[str, Any]:
    """What an Objective is told of the teacher. Raises UsageError for one of another vocabulary."""
    if teaching is None:
        return {}
    mix = teaching.recipe
    teacher = load_model(teaching.folder, bits=mix.bits, arithmetic=arithmetic).eval().requires_grad_(False)
    sizes = student.config.vocab_size, teacher.config.vocab_size
    if sizes[0] != sizes[1]:
        raise UsageError(
            f"student and teacher need one vocabulary, they have {sizes[0]} and {sizes[1]} tokens; take bases "
            "of one family."
        )
    if load_tokenizer(teaching.folder).get_vocab() != tokenizer.get_vocab():
        raise UsageError(
            f"the tokens of {base.name} and {teaching.folder.name} differ, so their logits do not compare; take "
            "bases of one family."
        )
    cached = {"cache": TeacherCache(teaching.cache), "top_k": mix.cache_top_k} if mix.cache_top_k else {}
    return {"teacher": teacher, **cached, **mix.model_dump(include={"temperature", "alpha_kd", "alpha_ce", "beta"})}
