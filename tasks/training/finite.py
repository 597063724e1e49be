"""Finding where a training run stopped being finite."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tasks.training.sharding import whole


def last_bad_gradient(model: nn.Module) -> str:
    """The last parameter, in the model's order, whose gradient is not finite: the backward pass met it first."""
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not _is_finite(parameter.grad):
            return f"the gradient of {name}"
    return "the norm of all gradients together"


@torch.no_grad()
def first_bad_tensor(model: nn.Module, forward: Callable[[], object]) -> str:
    """The first weight that is not finite or else the first layer of ``forward`` whose output is not, in words."""
    for name, parameter in model.named_parameters():
        if not _is_finite(parameter):
            return f"the weight {name}"
    bad: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def look(module: nn.Module, inputs: object, output: object) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            if not bad and isinstance(first, Tensor) and not torch.isfinite(first).all():
                bad.append(name)

        return look

    hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return f"the output of {bad[0]}" if bad else "the loss itself"


def _is_finite(tensor: Tensor) -> bool:
    """Whether all of ``tensor`` is; every process has to ask of a sharded one."""
    return bool(torch.isfinite(whole(tensor)).all())
