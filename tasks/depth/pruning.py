"""A model with some of its decoder layers: the others go, and what stays keeps its bytes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from transformers import AutoConfig

from deployment.prompts.prompt import Prompt, require_turns
from registry.errors import GemmillError, UsageError
from registry.files import atomic_directory
from registry.records import LabelSet, Record
from tasks.checkpoints.loading import load_tokenizer
from tasks.checkpoints.source import read_text_config
from tasks.depth.loss import DepthLoss, Layers
from tasks.depth.recipe import DepthRecipe
from tasks.depth.selection import Removal, leave_out, require_exportable, without
from tasks.depth.writing import write_layers
from tasks.training.examples import Batch, build_examples, epoch_batches
from tasks.training.models import load_model

_RECORDS = 32  # that the loss is measured on, evenly spread; the standard error is then far below what a layer costs
_BATCH_SIZE = 16
_TOLERANCE = 1e-4  # of a loss in float32, times it where it is above 1


class DepthReport(BaseModel):
    """Which layers stay and what each is worth; losses are means per response token.

    Attributes:
        kept: by their numbers in the model that was pruned.
        loss: of the whole model.
        increases: how much the loss grows where this layer alone is left out.
        removals: the layers that went, in their order.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    layers_before: int
    kept: Layers
    records: int
    loss: float
    increases: tuple[float, ...]
    removals: tuple[Removal, ...]


def prune_depth(
    model_dir: Path, out: Path, records: Sequence[Record], labels: LabelSet, recipe: DepthRecipe, *, prompt: Prompt
) -> DepthReport:
    """Write the model in ``model_dir`` to ``out`` without the layers that ``records`` need least.

    The config of ``out`` says in ``base_layers`` which layers of the base stayed.

    Raises:
        UsageError: see :func:`require_prunable`.
        GemmillError: the model's loss is no number, or without layers another than was measured.
    """
    described = require_prunable(model_dir, recipe)
    batches = _batches(model_dir, records, labels, prompt, described.max_position_embeddings)
    report = _measure(model_dir, _kinds(described), recipe, batches)
    with atomic_directory(out) as folder:
        write_layers(model_dir, folder, report.kept, getattr(described, "layer_types", None))
        _require_loss(folder, batches, report.removals[-1].loss)
    return report


def require_prunable(model_dir: Path, recipe: DepthRecipe) -> Any:
    """The config of a model that can lose layers as ``recipe`` says.

    Raises UsageError where the model has no layer to spare, no such set of layers can be exported, or it is multimodal.
    """
    read_text_config(model_dir)
    described = AutoConfig.from_pretrained(model_dir)
    depth: int = described.num_hidden_layers
    if recipe.layers >= depth:
        raise UsageError(f"{model_dir} has {depth} layers; keep fewer than that, not {recipe.layers}.")
    require_exportable(_kinds(described), recipe.layers)
    return described


def _kinds(described: Any) -> Sequence[str]:
    """Of attention, of each layer."""
    return getattr(described, "layer_types", None) or ["full_attention"] * described.num_hidden_layers


def _measure(model_dir: Path, kinds: Sequence[str], recipe: DepthRecipe, batches: Sequence[Batch]) -> DepthReport:
    loss = DepthLoss(load_model(model_dir, bits=32), batches)
    whole = loss.layers
    if not math.isfinite(loss(whole)):
        raise GemmillError(f"the loss of {model_dir} is no number; look for damaged weights with inspect.")
    increases = [loss(without(whole, layer)) - loss(whole) for layer in whole]
    removals = leave_out(loss, kinds, recipe.layers)
    return DepthReport(
        model=str(model_dir),
        layers_before=len(whole),
        kept=tuple(sorted(set(whole) - {removal.layer for removal in removals})),
        records=sum(len(batch.input_ids) for batch in batches),
        loss=loss(whole),
        increases=tuple(increases),
        removals=tuple(removals),
    )


def _require_loss(folder: Path, batches: Sequence[Batch], expected: float) -> None:
    loss = DepthLoss(load_model(folder, bits=32), batches)
    found = loss(loss.layers)
    if not abs(found - expected) <= _TOLERANCE * max(1.0, expected):  # NaN fails too
        raise GemmillError(
            f"without layers the model has the loss {found:.6g} where {expected:.6g} was measured; nothing was written."
        )


def _batches(
    model_dir: Path, records: Sequence[Record], labels: LabelSet, prompt: Prompt, max_tokens: int
) -> list[Batch]:
    tokenizer = load_tokenizer(model_dir)
    require_turns(tokenizer, prompt)
    count = min(_RECORDS, len(records))
    spread = [records[number * len(records) // count] for number in range(count)]
    examples = build_examples(spread, tokenizer, prompt, labels, max_tokens=max_tokens)
    pad = tokenizer.pad_token_id or 0
    return list(epoch_batches(examples, batch_size=_BATCH_SIZE, pad_id=pad, seed=0, epoch=0))
