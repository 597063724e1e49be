"""AdamW, in 32 or 8 bits, and its learning rate over a run."""

import math

import torch
from torch import nn

from registry.errors import UsageError
from tasks.training.recipe import TrainingRecipe

_BETAS = (0.9, 0.99)  # runs of a few hundred steps are over before a decay of 0.999 has warmed up


def build_optimizer(model: nn.Module, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over the trained parameters of ``model``.

    Raises UsageError where 8-bit moments are wanted and bitsandbytes is not installed.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    settings = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "betas": _BETAS}
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **settings)
    try:
        from bitsandbytes.optim.adamw import AdamW8bit
    except ImportError as error:
        raise UsageError(
            'optimizer = "adamw_8bit" needs bitsandbytes; install gemmill[bitsandbytes] or take "adamw".'
        ) from error
    return AdamW8bit(parameters, **settings)


def learning_rate_factor(step: int, total: int, warmup_ratio: float) -> float:
    """Linear warm-up, then a cosine down to zero (Loshchilov and Hutter 2016, arXiv:1608.03983)."""
    warmup = math.ceil(total * warmup_ratio)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
