"""The chunked loss against the plain formula, and the formula against torch."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tasks.distill import kd
from tasks.distill.kd import Head, chunked_kd_loss, kd_loss, likeliest_tokens

POSITIONS, VOCABULARY = 23, 97
MIX = {"temperature": 2.0, "alpha_kd": 0.7, "alpha_ce": 0.3}


class Sample(NamedTuple):
    student: Head
    teacher: Head
    labels: Tensor


def make_sample(student_width: int = 16, teacher_width: int = 24, dtype: torch.dtype = torch.float32) -> Sample:
    generator = torch.Generator().manual_seed(11)

    def head(width: int) -> Head:
        hidden = torch.randn(POSITIONS, width, generator=generator)
        weight = torch.randn(VOCABULARY, width, generator=generator) / width**0.5
        return Head(hidden.to(dtype), weight.to(dtype))

    labels = torch.randint(VOCABULARY, (POSITIONS,), generator=generator)
    return Sample(head(student_width), head(teacher_width), labels)


def trained(head: Head) -> Head:
    return Head(head.hidden.clone().requires_grad_(), head.weight.clone().requires_grad_())


def plain_loss(sample: Sample, student: Head, **mix: float) -> Tensor:
    """The formula on whole logits; autograd finds its gradients."""
    return kd_loss(
        (student.hidden @ student.weight.T).float(),
        (sample.teacher.hidden @ sample.teacher.weight.T).float(),
        sample.labels,
        **mix,
    )


def gradients(loss: Tensor, student: Head) -> tuple[Tensor, Tensor]:
    hidden, weight = torch.autograd.grad(loss, [student.hidden, student.weight])
    return hidden, weight


@pytest.fixture(params=[1, 4, 23, 1000], ids=lambda rows: f"chunks of {rows}")
def chunk_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(kd, "CHUNK_ENTRIES", request.param * VOCABULARY)
    monkeypatch.setattr(kd, "_BLOCK_ENTRIES", 3 * VOCABULARY)
    return request.param


@pytest.mark.usefixtures("chunk_rows")
@pytest.mark.parametrize("widths", [(16, 16), (16, 40), (40, 8)], ids=str)
@pytest.mark.parametrize(
    "mix",
    [
        MIX,
        {"temperature": 1.0, "alpha_kd": 1.0, "alpha_ce": 0.0},
        {"temperature": 5.0, "alpha_kd": 0.0, "alpha_ce": 1.0},
        {"temperature": 0.5, "alpha_kd": 2.0, "alpha_ce": 3.0},
        {"temperature": 2.0, "alpha_kd": 0.0, "alpha_ce": 0.0},
        MIX | {"beta": 0.3},
        MIX | {"beta": 1.0},
    ],
    ids=str,
)
def test_the_chunked_loss_equals_the_plain_one_with_its_gradients(
    widths: tuple[int, int], mix: dict[str, float]
) -> None:
    sample = make_sample(*widths)
    plain, chunked = trained(sample.student), trained(sample.student)
    expected = plain_loss(sample, plain, **mix)
    found = chunked_kd_loss(chunked, sample.teacher, sample.labels, **mix)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for got, wanted in zip(gradients(found * 0.25, chunked), gradients(expected * 0.25, plain), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_the_analytic_gradient_equals_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kd, "CHUNK_ENTRIES", 5 * VOCABULARY)
    sample = make_sample()
    direction = torch.randn(sample.student.hidden.shape, generator=torch.Generator().manual_seed(1))
    student = trained(sample.student)
    slope, _ = gradients(chunked_kd_loss(student, sample.teacher, sample.labels, **MIX), student)

    def loss_at(step: float) -> float:
        moved = Head((sample.student.hidden + step * direction).double(), sample.student.weight.double())
        teacher = Head(sample.teacher.hidden.double(), sample.teacher.weight.double())
        return plain_loss(sample._replace(teacher=teacher), moved, **MIX).item()

    numeric = (loss_at(1e-2) - loss_at(-1e-2)) / 2e-2
    assert (slope * direction).sum().item() == pytest.approx(numeric, rel=1e-3)


@pytest.mark.usefixtures("chunk_rows")
def test_without_a_teacher_the_loss_is_torchs_cross_entropy() -> None:
    sample = make_sample()
    student, reference = trained(sample.student), trained(sample.student)
    found = chunked_kd_loss(student, None, sample.labels)
    expected = functional.cross_entropy(reference.hidden @ reference.weight.T, sample.labels, reduction="sum")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for got, wanted in zip(gradients(found, student), gradients(expected, reference), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_a_student_that_equals_its_teacher_has_no_divergence() -> None:
    student = trained(make_sample().student)
    loss = chunked_kd_loss(student, Head(*map(Tensor.detach, student)), make_sample().labels, **MIX | {"alpha_ce": 0.0})
    assert loss.item() == pytest.approx(0.0, abs=1e-4)
    assert max(gradient.abs().max().item() for gradient in gradients(loss, student)) < 1e-5


def test_masked_tokens_do_not_change_the_loss() -> None:
    sample = make_sample()
    student, teacher = (head.hidden @ head.weight.T for head in (sample.student, sample.teacher))
    masked = sample.labels.clone()
    masked[::3] = -100
    kept = masked != -100
    expected = kd_loss(student[kept], teacher[kept], sample.labels[kept], **MIX)
    student[~kept], teacher[~kept] = 1e4, float("nan")
    torch.testing.assert_close(kd_loss(student, teacher, masked, **MIX), expected)


def test_a_batch_with_everything_masked_costs_nothing() -> None:
    sample = make_sample()
    logits = sample.student.hidden @ sample.student.weight.T
    assert kd_loss(logits, logits, torch.full_like(sample.labels, -100), **MIX).item() == 0
    student = trained(Head(sample.student.hidden[:0], sample.student.weight))
    loss = chunked_kd_loss(student, Head(sample.teacher.hidden[:0], sample.teacher.weight), sample.labels[:0], **MIX)
    hidden, weight = gradients(loss, student)
    assert loss.item() == 0 and hidden.shape == (0, 16) and not weight.any()


def test_nothing_flows_to_the_teacher() -> None:
    sample = make_sample()
    student, teacher = trained(sample.student), trained(sample.teacher)
    chunked_kd_loss(student, teacher, sample.labels, **MIX).backward()
    assert teacher.hidden.grad is None and teacher.weight.grad is None
    assert student.hidden.grad is not None and student.weight.grad is not None


def test_a_frozen_head_gets_no_gradient_and_the_hidden_states_do() -> None:
    sample = make_sample()
    student = Head(sample.student.hidden.clone().requires_grad_(), sample.student.weight)
    chunked_kd_loss(student, sample.teacher, sample.labels, **MIX).backward()
    assert student.hidden.grad is not None and student.weight.grad is None


def test_bfloat16_heads_come_close_to_float32() -> None:
    exact, rough = make_sample(), make_sample(dtype=torch.bfloat16)
    student, rough_student = trained(exact.student), trained(rough.student)
    expected = chunked_kd_loss(student, exact.teacher, exact.labels, **MIX)
    found = chunked_kd_loss(rough_student, rough.teacher, rough.labels, **MIX)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)
    for got, wanted in zip(gradients(found, rough_student), gradients(expected, student), strict=True):
        assert got.dtype == torch.bfloat16
        assert functional.cosine_similarity(got.float().flatten(), wanted.flatten(), dim=0) > 0.999


def test_heads_of_different_types_mix_under_autocast() -> None:
    sample = make_sample()
    student = trained(sample.student)
    teacher = Head(sample.teacher.hidden.bfloat16(), sample.teacher.weight.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        found = chunked_kd_loss(student, teacher, sample.labels, **MIX)
    torch.testing.assert_close(found, plain_loss(sample, student, **MIX), rtol=0.02, atol=0)
    found.backward()
    assert student.hidden.grad is not None and student.hidden.grad.dtype == torch.float32


def test_kept_answers_of_every_token_are_as_good_as_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kd, "CHUNK_ENTRIES", 5 * VOCABULARY)
    monkeypatch.setattr(kd, "_BLOCK_ENTRIES", 2 * VOCABULARY)
    sample = make_sample()
    student, reference = trained(sample.student), trained(sample.student)
    teacher = likeliest_tokens(sample.teacher, VOCABULARY, MIX["temperature"])
    found = chunked_kd_loss(student, teacher, sample.labels, **MIX)
    expected = chunked_kd_loss(reference, sample.teacher, sample.labels, **MIX)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    for got, wanted in zip(gradients(found, student), gradients(expected, reference), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_extreme_logits_stay_finite(beta: float) -> None:
    sample = make_sample()
    student = Head((sample.student.hidden * 1e4).requires_grad_(), sample.student.weight)
    teacher = Head(sample.teacher.hidden * 1e4, sample.teacher.weight)
    loss = chunked_kd_loss(student, teacher, sample.labels, **MIX, beta=beta)
    (gradient,) = torch.autograd.grad(loss, [student.hidden])
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()
