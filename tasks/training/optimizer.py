"""Optimizers: AdamW for fine-tuning, Muon with AdamW for a model that learns from scratch."""

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from tasks.training.recipe import TrainingRecipe

_BETAS = (0.9, 0.99)
_ADAMW_SHARE = 0.1  # of Muon's learning rate: embedding and norms want smaller steps than orthogonalised matrices


def build_optimizers(model: nn.Module, recipe: TrainingRecipe) -> list[Optimizer]:
    """Optimizers over the trained parameters of ``model``.

    With ``optimizer = "muon"`` (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) the matrices of the blocks
    go to Muon, embedding and norms to AdamW.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    decay = recipe.weight_decay
    if recipe.optimizer == "adamw":
        return [AdamW(trained.values(), lr=recipe.learning_rate, weight_decay=decay, betas=_BETAS, fused=True)]
    matrices = [p for name, p in trained.items() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in trained.items() if p.ndim != 2 or "embed" in name]
    return [
        Muon(matrices, lr=recipe.learning_rate, weight_decay=decay),
        AdamW(others, lr=recipe.learning_rate * _ADAMW_SHARE, weight_decay=decay, betas=_BETAS, fused=True),
    ]
