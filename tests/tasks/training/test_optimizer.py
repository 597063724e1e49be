"""The optimizers of a recipe, against those of torch."""

from pathlib import Path

import pytest
import torch
from training_samples import make_recipe

from tasks.training.models import load_model
from tasks.training.muon import Muon, orthogonalised
from tasks.training.optimizer import build_optimizer, learning_rate_factor


def test_muon_steps_matrices_as_torch_does_and_leaves_the_rest_to_adamw(tiny_model_dir: Path) -> None:
    ours, theirs = (load_model(tiny_model_dir, bits=32) for _ in range(2))
    optimizer = build_optimizer(ours, make_recipe(optimizer="muon", learning_rate=1e-2, precision="bf16"))
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


_SHAPES = (64, 64), (24, 96), (96, 24), (1, 32)


def gradient(shape: tuple[int, int]) -> torch.Tensor:
    """One whose singular values span three orders of magnitude, as those of real gradients do."""
    generator = torch.Generator().manual_seed(3)
    left, _, right = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    return left * torch.logspace(0, -3, min(shape)) @ right


@pytest.mark.parametrize("shape", _SHAPES, ids=str)
def test_muon_in_float32_orthogonalises_as_torch_does_but_for_the_rounding(shape: tuple[int, int]) -> None:
    """Torch iterates in bfloat16: what it rounds by 2 ** -9, five iterations of a slope of 3.4 make larger."""
    ours, theirs = (torch.nn.Parameter(torch.zeros(shape)) for _ in range(2))
    optimizer = Muon([ours], lr=1.0, weight_decay=0.0, dtype=torch.float32)
    peer = torch.optim.Muon([theirs], lr=1.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for parameter, each in ((ours, optimizer), (theirs, peer)):
        parameter.grad = gradient(shape)
        each.step()
    assert (ours - theirs).norm() < 0.15 * theirs.norm()
    exact = orthogonalised(gradient(shape).double(), torch.float64) * -0.2 * max(shape) ** 0.5
    assert (ours - exact).norm() < 1e-3 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", _SHAPES, ids=str)
def test_an_orthogonalised_matrix_is_near_the_polar_factor(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """The polar factor U Vᵀ has singular values of 1; the iteration brings those above 0.01 between 0.6 and 1.3."""
    matrix = gradient(shape)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.T @ orthogonalised(matrix, dtype).float() @ right.T  # in the basis in which U Vᵀ is the identity
    large = values / values.norm() > 0.01
    assert found.diagonal()[large].min() > 0.6 and found.diagonal().max() < 1.3
    assert (found - found.diagonal().diag()).abs().max() < (1e-3 if dtype == torch.float32 else 0.15)


def test_a_gradient_of_zeros_moves_nothing() -> None:
    assert torch.equal(orthogonalised(torch.zeros(3, 5), torch.float32), torch.zeros(3, 5))


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[:3] == pytest.approx([1 / 11, 2 / 11, 3 / 11])
    assert factors[10] == 1 and factors[55] == pytest.approx(0.5) and 0 < factors[-1] < 0.001
