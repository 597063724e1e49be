"""Reads the tensors of a GGUF file, dequantised and under their Hugging Face names."""

import logging
import struct
from pathlib import Path
from typing import Any, cast

import numpy as np
from gguf import GGUFReader, GGUFValueType, ReaderTensor
from gguf.quants import dequantize

from registry.errors import UsageError
from tasks.forensics.names import name_from_gguf
from tasks.forensics.stored import Checkpoint, StoredTensor, read_bytes

logger = logging.getLogger(__name__)

_INTEGERS = frozenset({"I8", "I16", "I32", "I64"})
_UNSOUND = (OSError, ValueError, KeyError, IndexError, OverflowError, MemoryError, struct.error)


class _TensorReader(GGUFReader):
    """gguf's reader, passing over arrays: it makes a view of every entry, ten seconds for 262,144 tokens."""

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[np.ndarray[Any, Any]], list[int], list[GGUFValueType]]:
        if GGUFValueType(raw_type) is not GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        content = cast(bytes, self.data)
        item_type, count = struct.unpack_from("<IQ", content, orig_offs)
        kind, end = GGUFValueType(item_type), orig_offs + 12
        if kind is GGUFValueType.STRING:
            for _ in range(count):
                end += 8 + struct.unpack_from("<Q", content, end)[0]
        else:
            end += count * np.dtype(self.gguf_scalar_to_np[kind]).itemsize
        return end - orig_offs, [], [], [GGUFValueType.ARRAY, kind]


def read_gguf(path: Path) -> Checkpoint:
    """The checkpoint in a GGUF file. Raises UsageError where the file is not sound."""
    try:
        reader = _TensorReader(path)
        field = reader.get_field("general.architecture")
        architecture = str(field.contents()) if field else "unknown"
        tensors = [_stored(path, tensor, architecture) for tensor in reader.tensors]
    except _UNSOUND as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{path} is no sound GGUF file: {reason}. Convert or copy it again.") from error
    skipped = tuple(f"{tensor.name} ({tensor.dtype})" for tensor in tensors if tensor.dtype in _INTEGERS)
    return Checkpoint(
        format="gguf",
        architecture=architecture,
        tensors=tuple(tensor for tensor in tensors if tensor.dtype not in _INTEGERS),
        skipped=skipped,
        stores_gain=True,
    )


def _stored(path: Path, tensor: ReaderTensor, architecture: str) -> StoredTensor:
    kind, start = tensor.tensor_type, int(tensor.data_offset)
    shape = tuple(int(size) for size in reversed(tensor.shape))  # ggml lists the fastest axis first
    row_bytes = int(tensor.n_bytes) // shape[0]

    def rows(first: int, last: int) -> np.ndarray:
        content = read_bytes(path, start + first * row_bytes, (last - first) * row_bytes)
        try:
            entries = dequantize(content.reshape(last - first, row_bytes), kind)
        except NotImplementedError as error:
            raise UsageError(f"{tensor.name} is {kind.name}, which gguf cannot dequantise.") from error
        return entries.astype(np.float32, copy=False).reshape(last - first, *shape[1:])

    return StoredTensor(
        name=name_from_gguf(tensor.name, architecture), shape=shape, dtype=kind.name, rows=rows
    )
