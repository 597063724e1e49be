"""Quantise and dequantise in one differentiable step, equal to the bytes that gguf-py writes.

Every codec follows ``quantize_row_*_ref`` of ggml-quants.c in float32: scale and minimum are rounded to fp16 as the
file stores them, the codes are computed with the scale before that rounding. The gradient passes straight through
(Bengio et al. 2013, arXiv:1308.3432).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from registry.errors import UsageError
from tasks.quant.types import BLOCK_SIZE, QuantType


def simulate_quantize(weight: Tensor, quant: QuantType) -> Tensor:
    """The values that ``weight`` has after a round trip through the file.

    Args:
        weight: (..., row), any float type; block types need rows that are a multiple of 32.
        quant: the type of the tensor in the file.

    Returns:
        float32 values of the same shape, without a gradient.

    Raises:
        UsageError: the row length does not fit the block size.
    """
    values = weight.detach().to(torch.float32)
    if not quant.is_block_type:
        return values.to(_FLOAT_TYPES[quant]).to(torch.float32)
    if values.shape[-1] % BLOCK_SIZE:
        raise UsageError(
            f"a row of {values.shape[-1]} weights is not a multiple of the {quant} block of {BLOCK_SIZE}; exclude the "
            "tensor or choose a float type for it."
        )
    blocks = values.reshape(-1, BLOCK_SIZE)
    return _BLOCK_CODECS[quant](blocks).reshape(values.shape)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, quant: QuantType) -> Tensor:
        return simulate_quantize(weight, quant).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def fake_quantize(weight: Tensor, quant: QuantType) -> Tensor:
    """:func:`simulate_quantize` in the type of ``weight`` with the straight-through gradient."""
    result = _StraightThrough.apply(weight, quant)
    assert isinstance(result, Tensor)  # noqa: S101  narrows the type of Function.apply
    return result


def _inverse(scale: Tensor) -> Tensor:
    return (1.0 / scale).nan_to_num_(posinf=0.0, neginf=0.0)  # a scale this small is stored as 0


def _stored(scale: Tensor) -> Tensor:
    return scale.to(torch.float16).to(torch.float32)


def _range(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest entry of each block; torch.aminmax takes several times longer on a CPU."""
    return blocks.amin(-1, keepdim=True), blocks.amax(-1, keepdim=True)


def _extreme(blocks: Tensor) -> Tensor:
    """The entry of largest magnitude in each block, with its sign; of two equal ones the first."""
    low, high = _range(blocks)
    extreme = torch.where(high > -low, high, low)
    ties = ((high == -low) & (high != 0)).squeeze(-1).nonzero().squeeze(-1)
    if ties.numel():
        tied = blocks[ties]
        extreme[ties] = tied.gather(-1, tied.abs().argmax(-1, keepdim=True))
    return extreme


def _symmetric(blocks: Tensor, half: int) -> Tensor:
    scale = _extreme(blocks) / -half
    codes = (blocks * _inverse(scale)).add_(half + 0.5).floor_().clamp_(0, 2 * half - 1)
    return codes.sub_(half).mul_(_stored(scale))


def _affine(blocks: Tensor, levels: int) -> Tensor:
    low, high = _range(blocks)
    scale = (high - low) / levels
    codes = ((blocks - low) * _inverse(scale)).add_(0.5).floor_().clamp_(0, levels)
    return codes.mul_(_stored(scale)).add_(_stored(low))


def _eight_bit(blocks: Tensor) -> Tensor:
    low, high = _range(blocks)
    scale = torch.maximum(high, -low) / 127
    magnitude = (blocks * _inverse(scale)).abs_()
    whole = magnitude.floor()
    rounded = magnitude.sub_(whole).mul_(2).floor_().add_(whole)  # half away from zero, as C's roundf
    return rounded.copysign_(blocks).mul_(_stored(scale))


_FLOAT_TYPES = {QuantType.F32: torch.float32, QuantType.F16: torch.float16, QuantType.BF16: torch.bfloat16}
_BLOCK_CODECS: dict[QuantType, Callable[[Tensor], Tensor]] = {
    QuantType.Q8_0: _eight_bit,
    QuantType.Q5_1: lambda blocks: _affine(blocks, 31),
    QuantType.Q5_0: lambda blocks: _symmetric(blocks, 16),
    QuantType.Q4_1: lambda blocks: _affine(blocks, 15),
    QuantType.Q4_0: lambda blocks: _symmetric(blocks, 8),
}
