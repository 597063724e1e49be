"""The order of llama.cpp's own rewriting of a file, which is that of every model that is written here.

Ollama's ``create`` rewrites a GGUF that it is given as ``llama-quantize IN OUT COPY`` does, so only a file that lies in
that order already keeps its SHA-256 on a device. The rewriting leaves every tensor's bytes and every value as they are;
it knows no alignment but the default, whatever the file says.
"""

import re
from collections.abc import Sequence

from tasks.gguf.container import ALIGNMENT, GgufFile, KeyValue

ALIGNMENT_KEY = "general.alignment"
LAST_KEYS = ("general.quantization_version", "general.file_type")  # llama.cpp sets them anew, after all others
_LAYER = re.compile(r"blk\.([0-9]+)")
_OUTSIDE_LAYERS = -1


def tensor_order(gguf_name: str) -> tuple[int, str]:
    """What tensors are sorted by: their layer as a number, those outside the layers first, then their name."""
    layer = _LAYER.match(gguf_name)
    return int(layer[1]) if layer else _OUTSIDE_LAYERS, gguf_name


def key_order(entries: Sequence[KeyValue]) -> list[KeyValue]:
    """``entries`` as they come, but for those of ``LAST_KEYS``."""
    return sorted(entries, key=lambda entry: LAST_KEYS.index(entry.key) + 1 if entry.key in LAST_KEYS else 0)


def is_in_order(file: GgufFile) -> bool:
    """Whether llama.cpp's rewriting, and so Ollama's, would leave ``file`` byte for byte as it is."""
    in_order = list(file.tensors) == sorted(file.tensors, key=tensor_order)
    aligned = file.metadata.get(ALIGNMENT_KEY, ALIGNMENT) == ALIGNMENT
    return in_order and aligned and tuple(file.metadata)[-len(LAST_KEYS) :] == LAST_KEYS
