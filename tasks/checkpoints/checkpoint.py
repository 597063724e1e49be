"""The safetensors of a Hugging Face folder, single or sharded, by row ranges as float32.

Reads with pread instead of torch or a memory map: no second of imports, no gigabyte of mapped pages, and
threads do not wait for each other. Format: https://huggingface.co/docs/safetensors.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from registry.errors import UsageError
from registry.files import read_at
from tasks.checkpoints.files import open_file, parse_json, shown
from tasks.checkpoints.folders import weight_files

_MAX_HEADER = 16 << 20  # bytes, a hundred thousand tensors
_MAX_NAME = 256  # characters
_CHUNK_BYTES = 8 << 20
_ITEM_SIZE = {"F32": 4, "F16": 2, "BF16": 2}
_FLOAT8 = "F8_"


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies in its file."""

    shape: tuple[int, ...]
    dtype: str
    descriptor: int
    offset: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * _ITEM_SIZE[self.dtype]

    @property
    def row_bytes(self) -> int:
        """Bytes of a matrix row as stored, or of a whole vector."""
        return self.shape[-1] * _ITEM_SIZE[self.dtype]

    @property
    def row_count(self) -> int:
        """Rows of a matrix; a vector is one row."""
        return prod(self.shape[:-1])


class Checkpoint:
    """The tensors of ``model_dir``, or of one ``file`` in it, open while the ``with`` block runs.

    Raises UsageError where a file is missing, cut short or malformed.
    """

    def __init__(self, model_dir: Path, file: str | None = None) -> None:
        self.tensors: dict[str, StoredTensor] = {}
        self._descriptors: list[int] = []
        try:
            for path in [model_dir / file] if file else weight_files(model_dir):
                self._open(path)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())

    def rename(self, name_of: Callable[[str], str | None]) -> None:
        """Give each tensor the name that ``name_of`` makes of its own; None leaves it out."""
        renamed: dict[str, StoredTensor] = {}
        for name, tensor in self.tensors.items():
            if (new := name_of(name)) is None:
                continue
            if new in renamed:
                raise UsageError(f"{new} is in the checkpoint under two names, {name} among them; save it again.")
            renamed[new] = tensor
        self.tensors = renamed

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` of a matrix, or that part of a vector as one row, in float32."""
        tensor = self.tensors[name]
        return _as_float32(self.raw_rows(name, start, stop), tensor.dtype).reshape(-1, tensor.shape[-1])

    def raw_rows(self, name: str, start: int, stop: int) -> bytes:
        """The same rows as the file stores them."""
        tensor = self.tensors[name]
        length = (stop - start) * tensor.row_bytes
        raw = read_at(tensor.descriptor, length, tensor.offset + start * tensor.row_bytes)
        if len(raw) != length:
            raise UsageError(f"{name} was cut short while it was read; copy the checkpoint again.")
        return raw

    def raw_chunks(self, name: str) -> Iterator[bytes]:
        """All rows of a tensor as the file stores them, some megabytes at a time."""
        tensor = self.tensors[name]
        step = max(1, _CHUNK_BYTES // tensor.row_bytes)
        for start in range(0, tensor.row_count, step):
            yield self.raw_rows(name, start, min(start + step, tensor.row_count))

    def _open(self, path: Path) -> None:
        descriptor = open_file(path)
        self._descriptors.append(descriptor)
        header, data_start = _header(path, descriptor)
        try:
            entries = {name: _entry(name, entry, descriptor, data_start) for name, entry in header.items()}
            _check_layout(list(entries.values()), data_start, os.fstat(descriptor).st_size)
        except ValueError as error:
            raise UsageError(f"{path} is not a sound safetensors file: {error}. Copy or save it again.") from error
        twice = self.tensors.keys() & entries.keys()
        if twice:
            raise UsageError(f"{sorted(twice)[0]} is in two shards of {path.parent}; save the checkpoint again.")
        self.tensors |= entries


def stored_types(path: Path) -> dict[str, Any]:
    """The type of each tensor in a safetensors file, as its header calls it; any is taken but float8.

    Raises UsageError where the file cannot be read, or its header is unsound.
    """
    descriptor = open_file(path)
    try:
        return {name: entry["dtype"] for name, entry in _header(path, descriptor)[0].items()}
    finally:
        os.close(descriptor)


def safetensors_header(tensors: Mapping[str, tuple[str, Sequence[int]]]) -> bytes:
    """The start of a safetensors file of ``tensors``, name -> (dtype, shape), whose data follow in this order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + prod(shape) * _ITEM_SIZE[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _header(path: Path, descriptor: int) -> tuple[dict[str, Any], int]:
    """The description of each tensor by its name, and where their data begin.

    Raises UsageError where it is unsound, or a tensor of a type that says nothing without the scales beside it.
    """
    size = os.fstat(descriptor).st_size
    header_size = int.from_bytes(read_at(descriptor, 8, 0), "little")
    if size < 8 or header_size > min(_MAX_HEADER, size - 8):
        raise UsageError(f"{path} is not a sound safetensors file: it is cut short. Copy or save it again.")
    try:
        header = parse_json(read_at(descriptor, header_size, 8).decode("utf-8"))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            if not isinstance(entry, Mapping) or not isinstance(entry.get("dtype"), str):
                raise ValueError(f"{shown(name)} is not described")
    except ValueError as error:
        raise UsageError(f"{path} is not a sound safetensors file: {error}. Copy or save it again.") from error
    for name, entry in header.items():
        if entry["dtype"].startswith(_FLOAT8):
            raise UsageError(
                f"{path} stores {shown(name)} in float8 ({shown(entry['dtype'])}), which is not read here; take the "
                "model's bfloat16, float16 or float32 weights."
            )
    return header, 8 + header_size


def _entry(name: str, entry: Mapping[str, Any], descriptor: int, data_start: int) -> StoredTensor:
    if len(name) > _MAX_NAME or not name.isprintable():
        raise ValueError(f"the name {shown(name)} is impossible")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if dtype not in _ITEM_SIZE:
        raise ValueError(f"the type {shown(dtype)} of {name} is not one of {', '.join(_ITEM_SIZE)}")
    if not isinstance(shape, list) or not shape or not all(type(number) is int and number > 0 for number in shape):
        raise ValueError(f"the shape {shown(shape)} of {name} is impossible")
    length = prod(shape) * _ITEM_SIZE[dtype]
    match offsets:
        case [int(begin), int(end)] if end - begin == length and begin >= 0:
            return StoredTensor(shape=tuple(shape), dtype=dtype, descriptor=descriptor, offset=data_start + begin)
    raise ValueError(f"the data offsets {shown(offsets)} of {name} do not fit the shape {shown(shape)}")


def _check_layout(tensors: list[StoredTensor], data_start: int, file_size: int) -> None:
    """Raise ValueError unless the tensors fill the rest of the file, without gaps and without overlap."""
    spans = sorted((tensor.offset, tensor.offset + tensor.nbytes) for tensor in tensors)
    ends = [(data_start, data_start), *spans, (file_size, file_size)]
    if spans and spans[-1][1] > file_size:
        raise ValueError("it is cut short")
    if any(end != begin for (_, end), (begin, _) in pairwise(ends)):
        raise ValueError("its tensors overlap or leave gaps")


def _as_float32(raw: bytes, dtype: str) -> np.ndarray:
    if dtype == "F32":
        return np.frombuffer(raw, dtype="<f4")
    if dtype == "F16":
        return np.frombuffer(raw, dtype="<f2").astype(np.float32)
    bits = np.frombuffer(raw, dtype="<u2").astype(np.uint32)
    bits <<= np.uint32(16)
    return bits.view(np.float32)
