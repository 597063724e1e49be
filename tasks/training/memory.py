"""About how much memory a training takes, told before it begins: half an hour is a long time to learn that it fails."""

import logging
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from registry.errors import UsageError
from tasks.checkpoints.architectures import EMBEDDING
from tasks.distill.kd import CHUNK_ENTRIES
from tasks.training.recipe import TrainingRecipe

logger = logging.getLogger(__name__)
Shapes = Mapping[str, tuple[int, ...]]  # of a model's tensors, by name

_GB = 1e9
_PROCESS = 700_000_000  # bytes of Python with torch, transformers, MLflow and Prefect
_MOMENTS = {"adamw": 8, "adamw_8bit": 2, "muon": 4}  # bytes a trained weight
_CLEARLY = 1.5  # how far off the estimate may be before a run is refused
_SHARDED = ("weights", "gradients and moments")
_CONTROL_GROUP = Path("/sys/fs/cgroup")
_ADVICE = {
    "weights": 'set method = "lora" with load_bits = 16 or 4',
    "gradients and moments": 'set optimizer = "adamw_8bit", train_embedding = false or method = "lora"',
    "the teacher": "set teacher_bits = 4 or cache_top_k",
    "activations": "lower batch_size and raise accumulation by as much, or set gradient_checkpointing = true",
    "logits": "lower batch_size and raise accumulation by as much",
}


class Batch(NamedTuple):
    """The largest forward pass: its tokens, and those of them whose logits are computed."""

    tokens: int
    kept: int


class Teacher(NamedTuple):
    shapes: Shapes
    bits: int


def training_memory(
    shapes: Shapes, recipe: TrainingRecipe, batch: Batch, teacher: Teacher | None = None
) -> dict[str, int]:
    """Bytes of each part, in one process; ``recipe`` has its precision. Within a factor of two, no more is meant."""
    half = recipe.in_bf16
    weights, embedding = sum(map(prod, shapes.values())), prod(shapes[EMBEDDING])
    matrices = [shape for name, shape in shapes.items() if len(shape) == 2 and name != EMBEDDING]
    trained = weights if recipe.train_embedding else weights - embedding
    if recipe.lora:
        trained = recipe.lora.r * sum(map(sum, matrices))
    copies = (2 if half else 0) + (4 if recipe.qat else 0)  # the cast and the quantised weight, kept for backward
    parts = {
        "weights": _stored(weights, embedding, recipe.load_bits) + copies * (weights - embedding),
        "gradients and moments": (4 + _MOMENTS[recipe.optimizer]) * trained,
        "activations": batch.tokens * _activations(matrices, recipe),
        "logits": _head(embedding, shapes[EMBEDDING][0], recipe, batch, answers=1 if teacher is None else 2),
    }
    if teacher:
        theirs, their_embedding = sum(map(prod, teacher.shapes.values())), prod(teacher.shapes[EMBEDDING])
        parts["the teacher"] = _stored(theirs, their_embedding, teacher.bits)
        if half != (teacher.bits <= 16):  # its head is cast to the student's arithmetic
            parts["the teacher"] += their_embedding * (2 if half else 4)
    return parts


def _stored(weights: int, embedding: int, bits: int) -> int:
    """Bytes of weights; those of 4 and 8 bits leave the embedding at 16."""
    return (weights - embedding) * bits // 8 + embedding * max(bits, 16) // 8


def _activations(matrices: list[tuple[int, ...]], recipe: TrainingRecipe) -> int:
    """Bytes a token: what every matrix reads and writes, and about as much around them, most of it in float32."""
    kept = 2 * 4 * sum(map(sum, matrices))
    return kept // 8 if recipe.gradient_checkpointing else kept


def _head(embedding: int, vocabulary: int, recipe: TrainingRecipe, batch: Batch, *, answers: int) -> int:
    """Bytes of the logits that are there at once, of the head's cast and of its gradient."""
    size = 2 if recipe.in_bf16 else 4
    logits = min(batch.kept * vocabulary, max(CHUNK_ENTRIES, vocabulary)) * size * answers
    cast = embedding * 2 if recipe.in_bf16 else 0
    return logits + cast + (2 * embedding * size if recipe.train_embedding else 0)


def require_memory(parts: Mapping[str, int], recipe: TrainingRecipe, *, title: str) -> None:
    """Say in a log line what ``parts`` add up to beside what is free.

    Raises UsageError, with what to change, where they clearly do not fit.
    """
    alone = recipe.shard or torch.cuda.is_available()  # shares, or a GPU for each process
    processes = 1 if alone else recipe.processes
    if recipe.shard and torch.cuda.is_available():  # each GPU holds a part of what is sharded
        parts = {name: size // recipe.processes if name in _SHARDED else size for name, size in parts.items()}
    need, free = (sum(parts.values()) + _PROCESS) * processes, free_memory()
    largest = max(parts, key=lambda part: parts[part])
    told = f"{title} takes about {need / _GB:.1f} GB, {parts[largest] * processes / _GB:.1f} of them for {largest}"
    if need > _CLEARLY * free:
        raise UsageError(f"{told}, and {free / _GB:.1f} GB are free; {_ADVICE[largest]}.")
    hint = f"; if that does not fit, {_ADVICE[largest]}" if need > free else ""
    logger.info("%s; %.1f GB are free%s", told, free / _GB, hint)


def free_memory() -> int:
    """Bytes that a training may take: of the GPU where there is one, else of this machine or container."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    available = psutil.virtual_memory().available
    try:
        limit, used = (int((_CONTROL_GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        stated = dict(line.split() for line in (_CONTROL_GROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # not Linux, an older kernel, or "max"
        return available
    cached = sum(int(stated.get(name, 0)) for name in ("active_file", "inactive_file"))  # given up when memory is asked
    return min(available, limit - used + cached)
