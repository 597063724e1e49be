"""AdamW, in 32 or 8 bits, Muon beside it, and the learning rate over a run."""

import math
from itertools import islice
from typing import Any

import torch
from torch import nn

from registry.errors import UsageError
from tasks.training.muon import Muon
from tasks.training.recipe import TrainingRecipe

_BETAS = (0.9, 0.99)  # runs of a few hundred steps are over before a decay of 0.999 has warmed up


class _Together(torch.optim.Optimizer):
    """Optimizers of different parameters that step as one, with one state and one list of parameter groups."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts

    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        groups = iter(self.param_groups)
        for part in self._parts:  # told anew each time, load_state_dict exchanges both
            part.state = self.state
            part.param_groups = list(islice(groups, len(part.param_groups)))
            part.step()


def build_optimizer(model: nn.Module, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over the trained parameters of ``model``.

    Raises UsageError where 8-bit moments are wanted and bitsandbytes is not installed.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    settings = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "betas": _BETAS}
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **settings)
    if recipe.optimizer == "muon":
        return _muon(model, settings, torch.bfloat16 if recipe.in_bf16 else torch.float32)
    try:
        from bitsandbytes.optim.adamw import AdamW8bit
    except ImportError as error:
        raise UsageError(
            'optimizer = "adamw_8bit" needs bitsandbytes; install gemmill[bitsandbytes] or take "adamw".'
        ) from error
    return AdamW8bit(parameters, **settings)


def _muon(model: nn.Module, settings: dict[str, Any], dtype: torch.dtype) -> torch.optim.Optimizer:
    """Muon for matrices that are no embedding, AdamW for the rest."""
    embeddings = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    matrices, others = [], []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (matrices if parameter.ndim == 2 and id(parameter) not in embeddings else others).append(parameter)
    parts: list[torch.optim.Optimizer] = []
    if matrices:
        parts.append(Muon(matrices, lr=settings["lr"], weight_decay=settings["weight_decay"], dtype=dtype))
    if others:
        parts.append(torch.optim.AdamW(others, fused=True, **settings))
    return _Together(*parts)


def learning_rate_factor(step: int, total: int, warmup_ratio: float) -> float:
    """Linear warm-up, then a cosine down to zero (Loshchilov and Hutter 2016, arXiv:1608.03983)."""
    warmup = math.ceil(total * warmup_ratio)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
