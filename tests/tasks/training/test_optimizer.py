"""The optimizers of a recipe, against those of torch."""

from pathlib import Path

import pytest
import torch
from training_samples import make_recipe

from tasks.training.models import load_model
from tasks.training.optimizer import build_optimizer, learning_rate_factor


def test_muon_steps_matrices_as_torch_does_and_leaves_the_rest_to_adamw(tiny_model_dir: Path) -> None:
    ours, theirs = (load_model(tiny_model_dir, bits=32) for _ in range(2))
    optimizer = build_optimizer(ours, make_recipe(optimizer="muon", learning_rate=1e-2))
    layers, others = {}, {}
    for name, parameter in theirs.named_parameters():
        (layers if name.endswith("_proj.weight") else others)[name] = parameter
    assert layers and "model.embed_tokens.weight" in others
    decay = make_recipe().weight_decay
    peers = (
        torch.optim.Muon(layers.values(), lr=5e-3, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others.values(), lr=5e-3, weight_decay=decay, betas=(0.9, 0.99)),
    )
    optimizer.load_state_dict(optimizer.state_dict())  # as accelerate does
    for group in optimizer.param_groups:
        group["lr"] = 5e-3  # as a schedule does
    for step in range(3):
        torch.manual_seed(step)
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        for each in (optimizer, *peers):
            each.step()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, msg=name)


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[:3] == pytest.approx([1 / 11, 2 / 11, 3 / 11])
    assert factors[10] == 1 and factors[55] == pytest.approx(0.5) and 0 < factors[-1] < 0.001
