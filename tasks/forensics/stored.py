"""A tensor as it lies in a file, and the set of them that makes a checkpoint."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from registry.errors import UsageError

_CHUNK_ENTRIES = 1 << 18  # 1 MB of float32: stays in the processor's cache from one figure to the next


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor in a file; ``rows(first, last)`` reads that part of its first axis as float32."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    rows: Callable[[int, int], np.ndarray]

    @property
    def entries(self) -> int:
        return math.prod(self.shape)

    def chunks(self) -> Iterator[np.ndarray]:
        """All entries in order, in flat and contiguous chunks of whole rows."""
        length = self.shape[0] if self.shape else 1
        step = max(1, _CHUNK_ENTRIES * length // max(1, self.entries))
        for first in range(0, length, step):
            yield np.ascontiguousarray(self.rows(first, min(first + step, length))).reshape(-1)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What was found at a path.

    ``skipped`` names tensors that hold no floating-point weights; ``stores_gain`` says that a norm is stored
    as the gain itself, whatever the architecture adds to the weight in Hugging Face's convention.
    """

    format: str
    architecture: str
    tensors: tuple[StoredTensor, ...]
    skipped: tuple[str, ...] = ()
    stores_gain: bool = False


def read_bytes(path: Path, start: int, count: int) -> np.ndarray:
    """Part of a file as uint8. It is read, not mapped: mapped pages count as memory of the process."""
    return np.fromfile(path, dtype=np.uint8, count=count, offset=start)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a model's side file. Raises UsageError where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}. Save or copy the model again.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no JSON object. Save or copy the model again.")
    return content
