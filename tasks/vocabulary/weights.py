"""A safetensors file with some rows of the embedding, streamed: no tensor is ever whole in memory.

An output matrix that is not the embedding loses the same rows. Rows keep the bytes that they had.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from registry.errors import UsageError
from tasks.checkpoints.architectures import EMBEDDING, OUTPUT
from tasks.checkpoints.checkpoint import Checkpoint, StoredTensor, safetensors_header
from tasks.gguf.encode import encode
from tasks.quant.types import QuantType

_CHUNK_BYTES = 8 << 20
_PRUNED = (EMBEDDING, OUTPUT)


class Row(NamedTuple):
    """Where a row of the new embedding comes from."""

    source: Checkpoint
    id: int


def write_weights(path: Path, checkpoint: Checkpoint, rows: Sequence[Row]) -> None:
    """Write the tensors of ``checkpoint`` with ``rows`` as the embedding and as the output, where it has one.

    Rows of another source take the type of ``checkpoint``. Raises UsageError where their length differs.
    """
    shapes = {
        name: (tensor.dtype, (len(rows), tensor.shape[-1]) if name in _PRUNED else tensor.shape)
        for name, tensor in checkpoint.tensors.items()
    }
    with path.open("wb") as stream:
        stream.write(safetensors_header(shapes))
        for name in shapes:
            for chunk in _gathered(checkpoint, name, rows) if name in _PRUNED else checkpoint.raw_chunks(name):
                stream.write(chunk)


def _gathered(checkpoint: Checkpoint, name: str, rows: Sequence[Row]) -> Iterator[bytes]:
    """The rows in order, neighbours of one source read at once."""
    wanted = checkpoint.tensors[name]
    step = max(1, _CHUNK_BYTES // wanted.row_bytes)
    breaks = [
        place
        for place, (left, right) in enumerate(pairwise(rows), start=1)
        if right.source is not left.source or right.id != left.id + 1
    ]
    for begin, end in pairwise([0, *breaks, len(rows)]):
        for start in range(begin, end, step):
            yield _read(name, rows[start], min(step, end - start), wanted)


def _read(name: str, first: Row, count: int, wanted: StoredTensor) -> bytes:
    found = first.source.tensors[name]
    if found.shape[-1] != wanted.shape[-1]:
        raise UsageError(
            f"{name} has rows of {found.shape[-1]} and of {wanted.shape[-1]}; name the base that the model was pruned "
            "from."
        )
    if found.dtype == wanted.dtype:
        return first.source.raw_rows(name, first.id, first.id + count)
    values = first.source.rows(name, first.id, first.id + count)
    return encode(np.ascontiguousarray(values), QuantType(wanted.dtype.lower())).tobytes()
