"""A model with some of its decoder layers: the others go, and what stays keeps its bytes."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from transformers import AutoConfig

from data_checks.contract import LabelSet, Record
from deployment.prompt import Prompt, require_turns
from registry.artifacts import atomic_directory
from registry.errors import GemmillError, UsageError
from tasks.depth.loss import DepthLoss, Layers
from tasks.depth.recipe import DepthRecipe
from tasks.depth.selection import Removal, leave_out, without
from tasks.depth.writing import write_layers
from tasks.gguf_export.architectures import text_config
from tasks.gguf_export.files import read_json
from tasks.training.examples import Batch, build_examples, epoch_batches
from tasks.training.models import load_model, load_tokenizer

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
        UsageError: the model has no layer to spare, no such set of layers can be exported, or it is multimodal.
        GemmillError: the pruned model computes something else than the whole one without these layers.
    """
    config = read_json(model_dir / "config.json")
    if text_config(config) is not config:
        raise UsageError(f"{model_dir} is a multimodal model; prune the folder of its text part.")
    described = AutoConfig.from_pretrained(model_dir)
    depth: int = described.num_hidden_layers
    if recipe.layers >= depth:
        raise UsageError(f"{model_dir} has {depth} layers; keep fewer than that, not {recipe.layers}.")
    kinds = getattr(described, "layer_types", None)
    batches = _batches(model_dir, records, labels, prompt, described.max_position_embeddings)
    loss = DepthLoss(load_model(model_dir, bits=32), batches)
    whole = loss.layers
    increases = [loss(without(whole, layer)) - loss(whole) for layer in whole]
    removals = leave_out(loss, kinds or ["full_attention"] * depth, recipe.layers)
    kept = tuple(sorted(set(whole) - {removal.layer for removal in removals}))
    with atomic_directory(out) as folder:
        write_layers(model_dir, folder, kept, kinds)
        found = DepthLoss(load_model(folder, bits=32), batches)
        if not abs(found(found.layers) - loss(kept)) <= _TOLERANCE * max(1.0, loss(kept)):  # NaN fails too
            raise GemmillError(
                f"{model_dir} without layers has the loss {found(found.layers):.6g} where {loss(kept):.6g} was "
                "measured; nothing was written."
            )
    return DepthReport(
        model=str(model_dir),
        layers_before=depth,
        kept=kept,
        records=sum(len(batch.input_ids) for batch in batches),
        loss=loss(whole),
        increases=tuple(increases),
        removals=tuple(removals),
    )


def _batches(
    model_dir: Path, records: Sequence[Record], labels: LabelSet, prompt: Prompt, max_tokens: int
) -> list[Batch]:
    tokenizer = load_tokenizer(model_dir)
    require_turns(tokenizer, prompt)
    some = records[:: max(1, len(records) // _RECORDS)][:_RECORDS]
    examples = build_examples(some, tokenizer, prompt, labels, max_tokens=max_tokens)
    pad = tokenizer.pad_token_id or 0
    return list(epoch_batches(examples, batch_size=_BATCH_SIZE, pad_id=pad, seed=0, epoch=0))
