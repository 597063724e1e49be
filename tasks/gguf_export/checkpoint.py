"""The safetensors of a Hugging Face folder, single or sharded, by row ranges as float32.

Reads with pread instead of torch or a memory map: no second of imports, no gigabyte of mapped pages, and
threads do not wait for each other. Format: https://huggingface.co/docs/safetensors.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from registry.errors import UsageError

_MAX_HEADER = 100_000_000  # bytes, the limit of the safetensors library
_ITEM_SIZE = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies in its file."""

    shape: tuple[int, ...]
    dtype: str
    descriptor: int
    offset: int


class Checkpoint:
    """The tensors of ``model_dir``, open while the ``with`` block runs.

    Raises UsageError where a file is missing, cut short or malformed.
    """

    def __init__(self, model_dir: Path) -> None:
        self.tensors: dict[str, StoredTensor] = {}
        self._descriptors: list[int] = []
        try:
            for path in _weight_files(model_dir):
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

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` of a matrix, or that part of a vector as one row, in float32."""
        tensor = self.tensors[name]
        row_length = tensor.shape[-1]
        item = _ITEM_SIZE[tensor.dtype]
        length = (stop - start) * row_length * item
        raw = os.pread(tensor.descriptor, length, tensor.offset + start * row_length * item)
        if len(raw) != length:
            raise UsageError(f"{name} was cut short while it was read; copy the checkpoint again.")
        return _as_float32(raw, tensor.dtype).reshape(-1, row_length)

    def _open(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
        self._descriptors.append(descriptor)
        size = os.fstat(descriptor).st_size
        header_size = int.from_bytes(os.pread(descriptor, 8, 0), "little")
        if size < 8 or header_size > min(_MAX_HEADER, size - 8):
            raise UsageError(f"{path} is not a sound safetensors file: it is cut short. Copy or save it again.")
        try:
            header = json.loads(os.pread(descriptor, header_size, 8))
            header.pop("__metadata__", None)
            entries = {name: _entry(entry, descriptor, 8 + header_size, size) for name, entry in header.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UsageError(f"{path} is not a sound safetensors file: {error}. Copy or save it again.") from error
        twice = self.tensors.keys() & entries.keys()
        if twice:
            raise UsageError(f"{sorted(twice)[0]} is in two shards of {path.parent}; save the checkpoint again.")
        self.tensors |= entries


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``. Raises UsageError where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no JSON object.")
    return content


def _weight_files(model_dir: Path) -> list[Path]:
    if (model_dir / "adapter_config.json").is_file():
        raise UsageError(f"{model_dir} is a PEFT adapter; merge it into its base first, then convert the result.")
    index = model_dir / "model.safetensors.index.json"
    if not index.is_file():
        return [model_dir / "model.safetensors"]
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, Mapping) or not all(isinstance(name, str) for name in weight_map.values()):
        raise UsageError(f"{index} has no sound weight_map; save the checkpoint again.")
    names = sorted(set(weight_map.values()))
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise UsageError(f"{index} names {outside[0]!r}, which is not a file of this folder.")
    return [model_dir / name for name in names]


def _entry(entry: Mapping[str, Any], descriptor: int, data_start: int, file_size: int) -> StoredTensor:
    dtype, shape = entry["dtype"], entry["shape"]
    begin, end = entry["data_offsets"]
    if dtype not in _ITEM_SIZE:
        raise ValueError(f"the type {dtype!r} is not one of {', '.join(_ITEM_SIZE)}")
    if not shape or not all(type(number) is int and number > 0 for number in shape):
        raise ValueError(f"the shape {shape!r} is impossible")
    length = _ITEM_SIZE[dtype]
    for number in shape:
        length *= number
    if type(begin) is not int or type(end) is not int or begin < 0 or end - begin != length:
        raise ValueError(f"the data offsets {entry['data_offsets']} do not fit the shape {shape}")
    if data_start + end > file_size:
        raise ValueError("it is cut short")
    return StoredTensor(shape=tuple(shape), dtype=dtype, descriptor=descriptor, offset=data_start + begin)


def _as_float32(raw: bytes, dtype: str) -> np.ndarray:
    if dtype == "F32":
        return np.frombuffer(raw, dtype="<f4")
    if dtype == "F16":
        return np.frombuffer(raw, dtype="<f2").astype(np.float32)
    return (np.frombuffer(raw, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
