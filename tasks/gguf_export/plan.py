"""Which type each tensor gets and how many bytes it takes, known before anything is written.

Training on the exact grid and the exporter share this plan, so what is trained is what ships.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from registry.errors import UsageError
from tasks.gguf_export.names import EMBEDDING, gguf_name, is_norm
from tasks.quant.types import QuantType


@dataclass(frozen=True, kw_only=True)
class TensorPlan:
    """One tensor of the file; ``shape`` is that of the Hugging Face tensor."""

    hf_name: str
    gguf_name: str
    shape: tuple[int, ...]
    type: QuantType

    @property
    def row_length(self) -> int:
        return self.shape[-1]

    @property
    def rows(self) -> int:
        return prod(self.shape[:-1])

    @property
    def nbytes(self) -> int:
        block, block_bytes = GGML_QUANT_SIZES[ggml_type(self.type)]
        return prod(self.shape) // block * block_bytes

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / prod(self.shape)


def ggml_type(type_: QuantType) -> GGMLQuantizationType:
    """The number that a GGUF file stores for ``type_``."""
    return GGMLQuantizationType[type_.name]


def default_embedding(weights: QuantType) -> QuantType:
    """The type that llama-quantize gives a tied embedding whose rows are no multiple of 256."""
    return QuantType.Q8_0 if weights.is_block_type else weights


def plan_types(
    shapes: Mapping[str, tuple[int, ...]], *, weights: QuantType, embedding: QuantType | None = None
) -> dict[str, TensorPlan]:
    """A plan for every tensor of ``shapes`` (Hugging Face name -> shape), in their order.

    Vectors and norms stay float32, the embedding gets ``embedding`` (None: :func:`default_embedding`), all
    else ``weights``. Raises UsageError for a name that Gemma 3 lacks and for rows that blocks do not divide.
    """
    plans = {}
    for name, shape in shapes.items():
        target = gguf_name(name)
        if len(shape) == 1 or is_norm(name):
            type_ = QuantType.F32
        elif name == EMBEDDING:
            type_ = embedding or default_embedding(weights)
        else:
            type_ = weights
        block, _ = GGML_QUANT_SIZES[ggml_type(type_)]
        if shape[-1] % block:
            raise UsageError(
                f"{target}: a row of {shape[-1]} is not a multiple of the {type_} block of {block}; "
                "choose f16 or bf16 for this model."
            )
        plans[name] = TensorPlan(hf_name=name, gguf_name=target, shape=tuple(shape), type=type_)
    return plans
