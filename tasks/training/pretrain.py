"""Domain-adaptive pre-training: language modelling on unlabelled texts before the labels come.

Gururangan et al. 2020, "Don't Stop Pretraining", arXiv:2004.10964.
"""

import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from registry.errors import UsageError
from registry.files import atomic_directory, write_text
from tasks.checkpoints.loading import load_tokenizer
from tasks.training.checkpoint import remove_checkpoint
from tasks.training.examples import Example
from tasks.training.fit import history_file
from tasks.training.loop import History, MetricSink, TrainingData, train
from tasks.training.models import load_for_training, save_training
from tasks.training.objective import Objective
from tasks.training.recipe import TrainingRecipe

_HELD_OUT = 50  # one text of so many validates
_FEWEST = 2


def text_examples(texts: Sequence[str], tokenizer: Any, *, max_tokens: int) -> list[Example]:
    """Each text between BOS and EOS as one example whose every token counts; a long one becomes several.

    A control token typed in a text stays text.
    """
    start, end = ([token] if token is not None else [] for token in (tokenizer.bos_token_id, tokenizer.eos_token_id))
    room = max_tokens - len(start)
    examples = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) + end
        pieces = [ids[first : first + room] for first in range(0, len(ids), room)]
        examples += [Example((*start, *piece), 1) for piece in pieces if len(start) + len(piece) > 1]
    return examples


def _held_out(texts: Sequence[str]) -> list[bool]:
    """Which texts validate: a fiftieth by hash, at least one of them."""
    hashes = [zlib.crc32(text.encode()) for text in texts]
    limit = sorted(hashes)[math.ceil(len(texts) / _HELD_OUT) - 1]
    return [value <= limit for value in hashes]


def pretrain(
    base: Path,
    out: Path,
    texts: Sequence[str],
    recipe: TrainingRecipe,
    *,
    on_metric: MetricSink,
    title: str = "pre-training",
) -> History:
    """Train the model in ``base`` on ``texts`` and write a Hugging Face folder to ``out``.

    A run that was cut short goes on from its checkpoint beside ``out``. Raises UsageError for fewer than two texts.
    """
    if len(texts) < _FEWEST:
        raise UsageError(f"{len(texts)} text is too few to pre-train on; name more with --texts.")
    transformers.set_seed(recipe.seed)
    tokenizer = load_tokenizer(base)
    held_out = _held_out(texts)
    training, validation = (
        text_examples(
            [text for text, held in zip(texts, held_out, strict=True) if held == wanted],
            tokenizer,
            max_tokens=recipe.max_tokens,
        )
        for wanted in (False, True)
    )
    data = TrainingData(lambda epoch: training, len(training), validation, tokenizer.pad_token_id or 0)
    model, trained = load_for_training(base, recipe)
    objective = Objective(trained, head_dtype=torch.bfloat16 if recipe.in_bf16 else torch.float32)
    checkpoint = out.parent / f"{out.name}.checkpoint.safetensors"
    history = train(objective, data, recipe, checkpoint=checkpoint, on_metric=on_metric, title=title)
    with atomic_directory(out) as temporary:
        save_training(model, trained, base, temporary)
    write_text(history_file(out), history.model_dump_json(indent=1))
    remove_checkpoint(checkpoint)
    return history
