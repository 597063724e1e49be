"""Two GGUF files of one model, byte for byte and key for key."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.gguf.container import GgufFile

_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class Difference:
    """``keys`` maps a metadata key that is not the same in both to its two values; None stands for none."""

    tensors: int
    equal_tensors: int
    metadata: int
    keys: dict[str, tuple[Any, Any]]


def difference(one: Path, other: Path) -> Difference:
    with GgufFile(one) as a, GgufFile(other) as b:
        names = a.tensors.keys() | b.tensors.keys()
        keys = a.metadata.keys() | b.metadata.keys()
        return Difference(
            tensors=len(names),
            equal_tensors=sum(_same_tensor(a, b, name) for name in names),
            metadata=len(keys),
            keys={key: (a.metadata.get(key), b.metadata.get(key)) for key in sorted(keys) if not _same_key(a, b, key)},
        )


def _same_key(a: GgufFile, b: GgufFile, key: str) -> bool:
    return (a.types.get(key), a.metadata.get(key)) == (b.types.get(key), b.metadata.get(key))


def _same_tensor(a: GgufFile, b: GgufFile, name: str) -> bool:
    if not (name in a.tensors and name in b.tensors):
        return False
    one, other = a.tensors[name], b.tensors[name]
    if (one.shape, one.type) != (other.shape, other.type):
        return False
    return all(np.array_equal(*rows) for rows in zip(_raw(a, name), _raw(b, name), strict=True))


def _raw(file: GgufFile, name: str) -> Iterator[np.ndarray]:
    tensor = file.tensors[name]
    step = max(1, _CHUNK_BYTES * tensor.rows // tensor.nbytes)
    for start in range(0, tensor.rows, step):
        yield file.raw_rows(name, start, min(start + step, tensor.rows))
