"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon), which torch.optim.Muon iterates in bfloat16 only.

A processor without bfloat16 units multiplies in it many times slower than in float32, so the type is a choice here.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_MOMENTUM = 0.95
_ITERATIONS = 5
_COEFFICIENTS = 3.4445, -4.7750, 2.0315  # the post's: steepest at zero, singular values end within 0.7 and 1.2
_SMALLEST_NORM = 1e-7  # of a gradient that is all zeros


def orthogonalised(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """About U Vᵀ of ``matrix`` = U S Vᵀ, (R, C), by Newton-Schulz iterations of fifth order in ``dtype``."""
    tall = matrix.shape[0] > matrix.shape[1]
    found = (matrix.T if tall else matrix).to(dtype)
    found = found / found.norm().clamp(min=_SMALLEST_NORM)  # no singular value is above one
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if tall else found


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised in ``dtype``, for matrices.

    Its steps are as long as AdamW's (Liu et al. 2025, arXiv:2502.16982), so one learning rate serves both.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], *, lr: float, weight_decay: float, dtype: torch.dtype) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                momentum = state["momentum_buffer"].lerp_(parameter.grad, 1 - _MOMENTUM)
                update = orthogonalised(parameter.grad.lerp(momentum, _MOMENTUM), self._dtype)  # Nesterov's
                length = 0.2 * max(parameter.shape) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * length)
