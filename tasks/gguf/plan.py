"""Which type each tensor gets and how many bytes it takes, known before anything is written.

Training on the exact grid and the exporter share this plan, so what is trained is what ships.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from registry.errors import UsageError
from tasks.checkpoints.architectures import EMBEDDING, OUTPUT, Layout, Model, is_norm
from tasks.gguf.order import tensor_order
from tasks.quant.types import QuantType

_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class TensorPlan:
    """One tensor of the file; ``shape`` is that of the Hugging Face tensor, ``layout`` how the file stores it."""

    hf_name: str
    gguf_name: str
    shape: tuple[int, ...]
    type: QuantType
    layout: Layout

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


@dataclass(frozen=True, kw_only=True)
class TensorGroup:
    """Tensors of several layers that are planned alike, under one name such as ``blk.0-17.ffn_up.weight``."""

    name: str
    tensors: tuple[TensorPlan, ...]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


def groups(plans: Iterable[TensorPlan]) -> list[TensorGroup]:
    """``plans`` with those that differ by their layer alone put together, in the order of the first of each."""
    alike: dict[tuple[object, ...], list[TensorPlan]] = {}
    for plan in plans:
        part = _LAYER.sub("blk.*.", plan.gguf_name)
        alike.setdefault((part, plan.shape, plan.type), []).append(plan)
    return [TensorGroup(name=_joint_name(members), tensors=tuple(members)) for members in alike.values()]


def _joint_name(members: list[TensorPlan]) -> str:
    layers = [int(match[1]) for member in members if (match := _LAYER.match(member.gguf_name))]
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    names = ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return _LAYER.sub(f"blk.{names}.", members[0].gguf_name)


def ggml_type(type_: QuantType) -> GGMLQuantizationType:
    """The number that a GGUF file stores for ``type_``."""
    return GGMLQuantizationType[type_.name]


def default_output(weights: QuantType) -> QuantType:
    """The type that llama-quantize gives an output matrix, a tied embedding included, of rows no multiple of 256."""
    return QuantType.Q8_0 if weights.is_block_type else weights


def plan_types(model: Model, *, weights: QuantType, embedding: QuantType | None = None) -> dict[str, TensorPlan]:
    """Hugging Face name -> plan of every tensor of ``model``, in the order of the file.

    Vectors and norms stay float32, the embedding and an output matrix of its own get ``embedding`` (None: as
    llama-quantize does), all else ``weights``. Raises UsageError for rows that blocks do not divide.
    """
    output = EMBEDDING if model.tied else OUTPUT
    plans = {}
    for name, shape in model.tensor_shapes.items():
        target = model.gguf_name(name)
        if len(shape) == 1 or is_norm(name):
            type_ = QuantType.F32
        elif embedding and name in (EMBEDDING, OUTPUT):
            type_ = embedding
        elif name == output:
            type_ = default_output(weights)
        else:
            type_ = weights
        block, _ = GGML_QUANT_SIZES[ggml_type(type_)]
        if shape[-1] % block:
            raise UsageError(
                f"{target}: a row of {shape[-1]} is not a multiple of the {type_} block of {block}; "
                "choose f16 or bf16 for this model."
            )
        plans[name] = TensorPlan(hf_name=name, gguf_name=target, shape=shape, type=type_, layout=model.layout(name))
    return dict(sorted(plans.items(), key=lambda item: tensor_order(item[1].gguf_name)))
