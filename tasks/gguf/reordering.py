"""A GGUF file of any making becomes one that Ollama keeps as it is: the same tensors and keys in llama.cpp's order."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from gguf.constants import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFValueType, LlamaFileType

from registry.errors import UsageError, VerificationFailed
from registry.files import atomic_file, file_sha256
from tasks.gguf.container import ALIGNMENT, GgufFile, KeyValue, Tensor, header_bytes
from tasks.gguf.order import ALIGNMENT_KEY, LAST_KEYS, key_order, tensor_order
from tasks.gguf.writer import ExportReport

_CHUNK_BYTES = 8 << 20
_SPLIT_KEY = "split.count"
_ADAPTER = "adapter"


def reorder_gguf(gguf: Path, out: Path) -> ExportReport:
    """Write ``gguf`` as ``out`` with its tensors and keys in llama.cpp's order, a few megabytes at a time.

    Every tensor keeps its bytes and every key its value; a file without ``LAST_KEYS`` gets them, as llama.cpp gives
    them, and ``general.alignment``, which its rewriting breaks, goes. ``out`` may be ``gguf`` itself.

    Raises:
        UsageError: the file is unsound, a part of a model, or an adapter, which llama.cpp does not rewrite.
        VerificationFailed: what was written is not what was read; ``out`` is as it was.
    """
    with atomic_file(out) as temporary:
        with GgufFile(gguf) as file:
            _require_whole_model(file)
            tensors = [file.tensors[name] for name in sorted(file.tensors, key=tensor_order)]
            header = header_bytes(key_order(_entries(file)), _headers(tensors))
            with temporary.open("wb") as stream:
                stream.write(header)
                digests = {tensor.name: _sha256(file, tensor, stream) for tensor in tensors}
        _require_same(temporary, header, digests, out)
        sha256, size = file_sha256(temporary), temporary.stat().st_size
    types = Counter(tensor.type.name.lower() for tensor in tensors)
    return ExportReport(path=out, sha256=sha256, bytes=size, tensors=len(tensors), types=dict(types))


def _require_whole_model(file: GgufFile) -> None:
    if file.metadata.get("general.type") == _ADAPTER:
        raise UsageError(f"{file.path} is an adapter, which llama.cpp does not rewrite; use it as it is.")
    if file.metadata.get(_SPLIT_KEY, 1) != 1:
        raise UsageError(
            f"{file.path} is one of {file.metadata[_SPLIT_KEY]} files of a model; join them with "
            "`llama-gguf-split --merge` first."
        )


def _entries(file: GgufFile) -> list[KeyValue]:
    default = {"general.quantization_version": GGML_QUANT_VERSION, "general.file_type": _guessed_file_type(file)}
    return [
        *(entry for entry in _given(file) if entry.key != ALIGNMENT_KEY or entry.value == ALIGNMENT),
        *(KeyValue(key, GGUFValueType.UINT32, default[key]) for key in LAST_KEYS if key not in file.metadata),
    ]


def _given(file: GgufFile) -> list[KeyValue]:
    return [KeyValue(key, file.types[key], value) for key, value in file.metadata.items()]


def _guessed_file_type(file: GgufFile) -> int:
    """llama.cpp's guess: the type of the most tensors, marked as a guess."""
    [(type_, _)] = Counter(tensor.type for tensor in file.tensors.values()).most_common(1)
    known = LlamaFileType.__members__
    names = ("ALL_F32",) if type_ is GGMLQuantizationType.F32 else (f"MOSTLY_{type_.name}", f"MOSTLY_{type_.name}_M")
    return LlamaFileType.GUESSED | next((known[name] for name in names if name in known), LlamaFileType.ALL_F32)


def _headers(tensors: list[Tensor]) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
    offset = 0
    for tensor in tensors:
        yield tensor.name, tensor.shape, tensor.type, offset
        offset += tensor.nbytes + _padding(tensor)


def _padding(tensor: Tensor) -> int:
    return -tensor.nbytes % ALIGNMENT


def _sha256(file: GgufFile, tensor: Tensor, copy: BinaryIO | None = None) -> str:
    """Of the tensor's bytes, which are written to ``copy`` as well, up to the next tensor."""
    digest = hashlib.sha256()
    step = max(1, _CHUNK_BYTES * tensor.rows // tensor.nbytes)
    for start in range(0, tensor.rows, step):
        chunk = file.raw_rows(tensor.name, start, min(start + step, tensor.rows)).data
        digest.update(chunk)
        if copy:
            copy.write(chunk)
    if copy:
        copy.write(bytes(_padding(tensor)))
    return digest.hexdigest()


def _require_same(written: Path, header: bytes, digests: dict[str, str], out: Path) -> None:
    """Read the file back: its header must be the one that was meant, each tensor the bytes that were read."""
    with GgufFile(written) as file:
        tensors = list(file.tensors.values())
        same_header = header_bytes(_given(file), _headers(tensors)) == header
        if not same_header or {tensor.name: _sha256(file, tensor) for tensor in tensors} != digests:
            raise VerificationFailed(
                f"{out} would not be the model that was read; nothing was written. Check the disk."
            )
