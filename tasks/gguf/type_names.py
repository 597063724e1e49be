"""The names of GGUF types as people know them, and why some cannot hold for a model.

llama-quantize accepts every name and then writes another type into each tensor whose rows the wanted one does not fit
(``tensor_type_fallback`` of llama-quant.cpp), so that the name of the file says what few of its weights are.
"""

from math import prod
from pathlib import Path

from registry.errors import UsageError
from tasks.checkpoints.checkpoint import Checkpoint
from tasks.checkpoints.files import shown
from tasks.quant.types import QuantType

_SUPER_BLOCK = 256  # weights of a row, ggml QK_K
_FALLBACKS = {  # by how a name begins: what llama-quantize writes instead, and the nearest types of this exporter
    "q2_k": ("q4_0", "q4_0"),
    "q3_k": ("q4_0", "q4_0"),
    "q4_k": ("q5_0", "q4_0 or q5_0"),
    "q5_k": ("q5_1", "q5_0 or q5_1"),
    "q6_k": ("q8_0", "q8_0"),
    "tq": ("q4_0", "q4_0"),
    "iq": ("iq4_nl", "q4_0"),
}
_IQ4_NL = "iq4_nl"  # has blocks of 32


def quant_type(label: str, model_dir: Path) -> QuantType:
    """The type of this name, for the model in ``model_dir``.

    Raises UsageError for a name that is not written, saying what llama-quantize would make of the model under it.
    """
    name = label.lower()
    if name in list(QuantType):
        return QuantType(name)
    if "imatrix" in name:
        raise UsageError(
            "an importance matrix is no type, and would move a model trained for q4_0 off its grid: with one, "
            "llama-quantize turns the first ffn_down into q4_1. Take q4_0."
        )
    found = next((found for begin, found in _FALLBACKS.items() if name.startswith(begin)), None)
    if found is None or name == _IQ4_NL:
        raise UsageError(f"{shown(label)} is no type that is written; take one of {', '.join(QuantType)}.")
    fallback, instead = found
    matrices = _matrices(model_dir)
    misfits = [shape for shape in matrices if shape[-1] % _SUPER_BLOCK]
    if not misfits:
        raise UsageError(f"{label} is no type that is written; take {instead}.")
    share = sum(map(prod, misfits)) / sum(map(prod, matrices))
    lengths = " or ".join(str(length) for length in sorted({shape[-1] for shape in misfits}))
    raise UsageError(
        f"{label} would not be what the file holds: its blocks take {_SUPER_BLOCK} weights of a row, and "
        f"{len(misfits)} of {len(matrices)} matrices ({100 * share:.0f} % of their weights) have rows of {lengths}, "
        f"which llama-quantize writes as {fallback}. Take {instead}."
    )


def _matrices(model_dir: Path) -> list[tuple[int, ...]]:
    with Checkpoint(model_dir) as checkpoint:
        return [tensor.shape for tensor in checkpoint.tensors.values() if len(tensor.shape) > 1]
