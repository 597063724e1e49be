"""Divergences against their formulas, gradients against autograd."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from tasks.distill.divergences import (
    TopK,
    divergence,
    divergence_and_gradient,
    sparse_divergence_and_gradient,
)

POSITIONS, VOCABULARY = 7, 53
BETAS = [0.0, 0.1, 0.5, 0.9, 1.0]


def logits(seed: int) -> Tensor:
    return 3 * torch.randn(POSITIONS, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def collapsed(log_probabilities: Tensor, tokens: Tensor) -> Tensor:
    """(N, V) -> (N, K + 1): the chosen tokens and all others as one outcome."""
    probabilities = log_probabilities.exp()
    chosen = probabilities.gather(-1, tokens)
    rest = probabilities.scatter(-1, tokens, 0.0).sum(-1, keepdim=True).clamp(1e-30)
    return torch.cat([chosen, rest], -1).log()


@pytest.mark.parametrize("beta", BETAS)
def test_the_gradient_is_that_of_autograd(beta: float) -> None:
    student = logits(1).requires_grad_()
    teacher_log = functional.log_softmax(logits(2), -1)
    expected = divergence(functional.log_softmax(student, -1), teacher_log, beta).sum()
    (slope,) = torch.autograd.grad(expected, [student])
    total, gradient = divergence_and_gradient(functional.log_softmax(student.detach(), -1), teacher_log.clone(), beta)
    torch.testing.assert_close(total, expected.detach())
    torch.testing.assert_close(gradient, slope, rtol=1e-5, atol=1e-6)


def test_the_ends_are_torchs_two_divergences() -> None:
    student_log, teacher_log = functional.log_softmax(logits(1), -1), functional.log_softmax(logits(2), -1)
    forward = functional.kl_div(student_log, teacher_log, log_target=True, reduction="none").sum(-1)
    reverse = functional.kl_div(teacher_log, student_log, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(divergence(student_log, teacher_log, 0.0), forward)
    torch.testing.assert_close(divergence(student_log, teacher_log, 1.0), reverse)


@given(beta=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_the_generalised_divergence_lies_between_zero_and_the_entropy_of_beta(beta: float, seed: int) -> None:
    student_log, teacher_log = functional.log_softmax(logits(seed), -1), functional.log_softmax(logits(seed + 1), -1)
    bound = -beta * math.log(beta) - (1 - beta) * math.log1p(-beta)
    found = divergence(student_log, teacher_log, beta)
    assert (found >= 0).all() and (found <= bound + 1e-5).all()
    swapped = divergence(teacher_log, student_log, 1 - beta)
    torch.testing.assert_close(found, swapped, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("k", [1, 8, VOCABULARY - 1])
def test_the_sparse_divergence_is_that_of_the_collapsed_outcomes(beta: float, k: int) -> None:
    student, teacher = logits(1).requires_grad_(), logits(2)
    kept = TopK.of(teacher, k, temperature=2.0)
    expected = divergence(
        collapsed(functional.log_softmax(student, -1), kept.tokens),
        collapsed(functional.log_softmax(teacher / 2.0, -1), kept.tokens),
        beta,
    ).sum()
    (slope,) = torch.autograd.grad(expected, [student])
    total, gradient = sparse_divergence_and_gradient(functional.log_softmax(student.detach(), -1), kept, beta)
    torch.testing.assert_close(total, expected.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, slope, rtol=1e-3, atol=1e-5)


def test_more_tokens_come_closer_to_the_whole_divergence_from_below() -> None:
    student_log, teacher = functional.log_softmax(logits(1), -1), logits(2)
    whole = divergence(student_log, functional.log_softmax(teacher, -1), 0.0).sum()
    found = [
        sparse_divergence_and_gradient(student_log, TopK.of(teacher, k, 1.0), 0.0)[0] for k in (1, 4, 16, VOCABULARY)
    ]
    assert sorted(found) == found
    torch.testing.assert_close(found[-1], whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("beta", BETAS)
def test_a_teacher_that_is_sure_is_not_taken_for_certain(beta: float) -> None:
    teacher = logits(2)
    teacher[:, 5] += 40.0
    student_log = functional.log_softmax(logits(1), -1)
    kept = TopK.of(teacher, 8, 1.0)
    expected = divergence(
        collapsed(student_log.double(), kept.tokens),
        collapsed(functional.log_softmax(teacher.double(), -1), kept.tokens),
        beta,
    ).sum()
    found, _ = sparse_divergence_and_gradient(student_log, kept, beta)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_all_tokens_are_kept_where_the_vocabulary_is_smaller_than_k() -> None:
    kept = TopK.of(logits(2), 10 * VOCABULARY, 1.0)
    torch.testing.assert_close(kept.log_probabilities.exp().sum(-1), torch.ones(POSITIONS))
