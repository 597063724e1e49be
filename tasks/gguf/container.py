"""The GGUF container: reads metadata and, by row ranges, tensors, none of them trusted; packs headers.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The reader of the ``gguf`` package keeps
an array per token and takes 12 s for a vocabulary of 262,144; this one takes a fraction of a second and
checks every length first.
"""

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.quants import dequantize

from registry.errors import UsageError
from registry.files import read_at
from tasks.checkpoints.files import open_file, shown

ALIGNMENT = 32  # bytes, where a file names no other
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
_MAX_NAME = 63  # bytes of a tensor's name, GGML_MAX_NAME less its end
_MAX_KEY = 65_535  # bytes
_MAX_HEADER = 64 << 20  # bytes; a vocabulary of 262,144 takes 6 MB
_MAX_ITEMS = 1 << 21  # of an array

_SCALARS = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT64: "<f8",
    GGUFValueType.BOOL: "?",
}


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """Where a tensor lies in the file; ``shape`` is in numpy order, rows first."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    nbytes: int

    @property
    def row_length(self) -> int:
        return self.shape[-1]

    @property
    def rows(self) -> int:
        return int(np.prod(self.shape[:-1], dtype=np.int64))


@dataclass(frozen=True)
class KeyValue:
    """A metadata entry; a list is an array of ``type``."""

    key: str
    type: GGUFValueType
    value: Any


class GgufFile:
    """A GGUF file; raises UsageError where it is cut short or malformed.

    ``metadata`` holds plain Python values in the file's order, ``types`` the value type of each key (for an
    array, of its elements). ``trailing_bytes`` is what lies after the last tensor, which nothing reads.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, Any] = {}
        self.types: dict[str, GGUFValueType] = {}
        self.tensors: dict[str, Tensor] = {}
        self._stream = os.fdopen(open_file(path), "rb")
        try:
            self._size = os.fstat(self._stream.fileno()).st_size
            self._parse(_Cursor(self._stream, self._size))
        except (_Malformed, OSError) as error:
            self.close()
            raise UsageError(
                f"{path} is not a sound GGUF file: {error}. Copy or convert it again and compare its SHA-256."
            ) from error

    def __enter__(self) -> "GgufFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stream.close()

    def raw_rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """The stored bytes of rows ``start`` to ``stop``, shape (rows, bytes per row)."""
        tensor = self.tensors[name]
        stride = tensor.nbytes // tensor.rows
        length = (stop - start) * stride
        raw = read_at(self._stream.fileno(), length, tensor.offset + start * stride)
        if len(raw) != length:
            raise UsageError(f"{self.path} was cut short while it was read; copy it again.")
        return np.frombuffer(raw, dtype=np.uint8).reshape(-1, stride)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` as float32, shape (rows, row length)."""
        tensor = self.tensors[name]
        try:
            values = dequantize(self.raw_rows(name, start, stop), tensor.type)
        except NotImplementedError:
            raise UsageError(f"{name} in {self.path} has the type {tensor.type.name}, which is not read.") from None
        return values.reshape(-1, tensor.row_length)

    def _parse(self, cursor: "_Cursor") -> None:
        if cursor.take(4) != _MAGIC:
            raise _Malformed("it does not begin with the letters GGUF")
        version = cursor.scalar("<u4")
        if version not in _VERSIONS:
            raise _Malformed(f"version {version} is not one of {_VERSIONS}")
        tensor_count, key_count = cursor.scalar("<u8"), cursor.scalar("<u8")
        for _ in range(key_count):
            key = cursor.string(_MAX_KEY)
            if key in self.metadata:
                raise _Malformed(f"the key {shown(key)} appears twice")
            self.metadata[key], self.types[key] = cursor.value()
        alignment = self.metadata.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
            raise _Malformed(f"the alignment {shown(alignment)} is not a power of two")
        headers = [cursor.tensor_header() for _ in range(tensor_count)]
        start = end = _padded(cursor.position, alignment)
        for name, shape, kind, offset in headers:
            if start + offset != end:  # as ggml asks, so that no two overlap
                raise _Malformed(f"the tensor {name!r} does not begin where the one before it ends")
            end += _padded(self._add_tensor(name, shape, kind, end), alignment)
        self.trailing_bytes = max(0, self._size - end)

    def _add_tensor(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> int:
        """Its bytes, once its place is known to hold it."""
        if name in self.tensors:
            raise _Malformed(f"the tensor {name!r} appears twice")
        try:
            type_ = GGMLQuantizationType(kind)
        except ValueError:
            raise _Malformed(f"the tensor {name!r} has the unknown type {kind}") from None
        block, block_bytes = GGML_QUANT_SIZES[type_]
        elements = 1
        for length in shape:
            elements *= length
        if not elements or shape[-1] % block:
            raise _Malformed(f"the tensor {name!r} of {type_.name} has the impossible shape {shape}")
        nbytes = elements // block * block_bytes
        if offset + nbytes > self._size:
            raise _Malformed(f"the tensor {name!r} ends beyond the end of the file; it is cut short")
        self.tensors[name] = Tensor(name=name, shape=shape, type=type_, offset=offset, nbytes=nbytes)
        return nbytes


class _Malformed(ValueError):
    """What is wrong with the bytes."""


class _Cursor:
    """Reads values one after the other and never past the end."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size
        self.position = 0

    def take(self, length: int) -> bytes:
        end = self.position + length
        if end > self._size:
            raise _Malformed("it ends in the middle of its header; it is cut short")
        if end > _MAX_HEADER:
            raise _Malformed(f"its header claims more than {_MAX_HEADER >> 20} MB")
        self.position = end
        taken = self._stream.read(length)
        if len(taken) != length:
            raise _Malformed("it was cut short while it was read")
        return taken

    def scalar(self, dtype: str) -> Any:
        kind = np.dtype(dtype)
        return np.frombuffer(self.take(kind.itemsize), dtype=kind)[0].item()

    def string(self, longest: int = _MAX_HEADER) -> str:
        (length,) = struct.unpack("<Q", self.take(8))
        if length > longest:
            raise _Malformed(f"it has a name of {length} bytes where at most {longest} are possible")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise _Malformed("a text in its header is not UTF-8") from None

    def value(self) -> tuple[Any, GGUFValueType]:
        kind = self._value_type()
        if kind is GGUFValueType.STRING:
            return self.string(), kind
        if kind is GGUFValueType.ARRAY:
            return self._array()
        return self.scalar(_SCALARS[kind]), kind

    def _value_type(self) -> GGUFValueType:
        number = self.scalar("<u4")
        try:
            return GGUFValueType(number)
        except ValueError:
            raise _Malformed(f"the value type {number} is unknown") from None

    def _array(self) -> tuple[list[Any], GGUFValueType]:
        kind, count = self._value_type(), self.scalar("<u8")
        if kind is GGUFValueType.ARRAY:
            raise _Malformed("it holds an array of arrays")
        if count > _MAX_ITEMS:
            raise _Malformed(f"it claims an array of {count} items")
        if kind is GGUFValueType.STRING:
            return [self.string() for _ in range(count)], kind
        dtype = np.dtype(_SCALARS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype=dtype).tolist(), kind

    def tensor_header(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self.string(_MAX_NAME), self.scalar("<u4")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise _Malformed(f"the tensor {name!r} has {dimensions} dimensions")
        shape = tuple(self.scalar("<u8") for _ in range(dimensions))[::-1]
        return name, shape, self.scalar("<u4"), self.scalar("<u8")


def header_bytes(entries: Iterable[KeyValue], tensors: Iterable[tuple[str, tuple[int, ...], int, int]]) -> bytes:
    """A whole header, padded to the alignment; ``tensors`` gives name, shape, type and offset in the data."""
    keys = [_packed_text(entry.key) + _packed_value(entry) for entry in entries]
    infos = [
        _packed_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), type_, offset)
        for name, shape, type_, offset in tensors
    ]
    header = b"".join([_MAGIC, struct.pack("<IQQ", _VERSIONS[-1], len(infos), len(keys)), *keys, *infos])
    return header + bytes(-len(header) % ALIGNMENT)


def _padded(length: int, alignment: int) -> int:
    return -(-length // alignment) * alignment


def _packed_text(text: str) -> bytes:
    return _packed_texts([text])


def _packed_texts(texts: Sequence[str]) -> bytes:
    """The length of each, then its bytes; a vocabulary of 262,144 has no time for a call per token."""
    try:
        encoded = [text.encode() for text in texts]
    except UnicodeEncodeError as error:
        raise UsageError(f"{shown(error.object)} is no text that UTF-8 can hold; change it.") from error
    lengths = np.fromiter(map(len, encoded), "<u8", len(encoded)).view("V8").tolist()
    return b"".join(chain.from_iterable(zip(lengths, encoded, strict=True)))


def _packed_value(entry: KeyValue) -> bytes:
    if not isinstance(entry.value, list):
        return struct.pack("<I", entry.type) + _packed_items([entry.value], entry.type)
    prefix = struct.pack("<IIQ", GGUFValueType.ARRAY, entry.type, len(entry.value))
    return prefix + _packed_items(entry.value, entry.type)


def _packed_items(items: list[Any], kind: GGUFValueType) -> bytes:
    if kind is GGUFValueType.STRING:
        return _packed_texts(items)
    return np.array(items, dtype=_SCALARS[kind]).tobytes()
