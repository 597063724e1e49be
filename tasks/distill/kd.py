"""Knowledge distillation: a divergence from the teacher mixed with cross-entropy, at response positions only.

    loss = alpha_ce * CE(labels, student) + alpha_kd * T^2 * D(softmax(teacher / T), softmax(student / T))

(Hinton et al. 2015, arXiv:1503.02531; the divergences D are those of :mod:`tasks.distill.divergences`).
:func:`kd_loss` is the formula on whole logits. :func:`chunked_kd_loss` gives the same value and gradients from hidden
states, a few positions at a time: at 262,144 tokens the logits of one batch would take gigabytes.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tasks.distill.divergences import TopK, divergence, divergence_and_gradient, sparse_divergence_and_gradient

CHUNK_ENTRIES = 1 << 25  # logits of one matrix product: 128 rows at 262,144 tokens, 64 MB in bfloat16
_BLOCK_ENTRIES = 1 << 19  # of them at once in float32: 2 MB, so that the passes over them stay in a CPU's cache


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    alpha_kd: float,
    alpha_ce: float,
    beta: float = 0.0,
    ignore_index: int = -100,
) -> Tensor:
    """The mixed loss summed over the positions whose label is not ``ignore_index``.

    Args:
        student_logits: (N, V).
        teacher_logits: (N, V).
        labels: (N,) token ids.
        beta: 0 for the forward KL, 1 for the reverse KL, between them the generalised Jensen-Shannon divergence.
    """
    kept = labels != ignore_index
    student, teacher = student_logits[kept].float(), teacher_logits[kept].float()
    cross_entropy = functional.cross_entropy(student, labels[kept], reduction="sum")
    student_log = functional.log_softmax(student / temperature, -1)
    teacher_log = functional.log_softmax(teacher / temperature, -1)
    return alpha_ce * cross_entropy + alpha_kd * temperature**2 * divergence(student_log, teacher_log, beta).sum()


class Head(NamedTuple):
    """Hidden states at the positions that count, and the output embedding that turns them into logits."""

    hidden: Tensor  # (N, H)
    weight: Tensor  # (V, H)

    def logits(self, rows: slice) -> Tensor:
        return self.hidden[rows].to(self.weight.dtype) @ self.weight.T


def likeliest_tokens(teacher: Head, k: int, temperature: float) -> TopK:
    """What a teacher says at all N positions, never holding all logits."""
    step = max(1, _BLOCK_ENTRIES // teacher.weight.shape[0])
    with torch.autocast(teacher.hidden.device.type, enabled=False):
        parts = [
            TopK.of(logits[start : start + step], k, temperature)
            for rows in _chunks(len(teacher.hidden), teacher.weight.shape[0])
            for logits in [teacher.logits(rows)]
            for start in range(0, len(logits), step)
        ]
    return TopK(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _chunks(positions: int, vocabulary: int) -> Iterator[slice]:
    step = max(1, CHUNK_ENTRIES // vocabulary)
    return (slice(start, start + step) for start in range(0, positions, step))


class _Mix(NamedTuple):
    temperature: float
    alpha_kd: float
    alpha_ce: float
    beta: float


def chunked_kd_loss(
    student: Head,
    teacher: Head | TopK | None,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    alpha_kd: float = 0.0,
    alpha_ce: float = 1.0,
    beta: float = 0.0,
) -> Tensor:
    """:func:`kd_loss` summed over all N positions, never holding all logits; plain cross-entropy without a teacher.

    The matrix products run in the type of each head's weight. Gradients reach ``student.hidden`` and, where it asks for
    one, ``student.weight``; nothing flows to the teacher.

    Args:
        student, teacher: heads over the same vocabulary, whose hidden sizes may differ; or what was kept of the
            teacher's answers at ``temperature``.
        labels: (N,) token ids, none of them ignored.
    """
    mix = _Mix(temperature, alpha_kd, alpha_ce, beta)
    loss = _ChunkedLoss.apply(student.hidden, student.weight, teacher, labels, mix)
    assert isinstance(loss, Tensor)  # noqa: S101  narrows the type of Function.apply
    return loss


def _chunk_loss_and_gradient(
    student: Tensor, teacher: Tensor | TopK | None, labels: Tensor, mix: _Mix
) -> tuple[Tensor, Tensor]:
    """Summed loss of some positions and its gradient with respect to their student logits (n, V), which it replaces."""
    total = torch.zeros((), dtype=torch.float32, device=student.device)
    step = len(student) if student.is_cuda else max(1, _BLOCK_ENTRIES // student.shape[-1])
    for start in range(0, len(student), step):
        rows = slice(start, start + step)
        loss, slope = _block_loss_and_gradient(student[rows].float(), _rows_of(teacher, rows), labels[rows], mix)
        total += loss
        student[rows] = slope
    return total, student


def _block_loss_and_gradient(
    student: Tensor, teacher: Tensor | TopK | None, labels: Tensor, mix: _Mix
) -> tuple[Tensor, Tensor]:
    log_probabilities = functional.log_softmax(student, -1)
    rows = torch.arange(len(labels), device=labels.device)
    loss = -mix.alpha_ce * log_probabilities[rows, labels].sum()
    gradient = log_probabilities.exp_()
    gradient[rows, labels] -= 1
    gradient *= mix.alpha_ce
    if teacher is not None:
        student_log = functional.log_softmax(student / mix.temperature, -1)
        if isinstance(teacher, TopK):
            distance, slope = sparse_divergence_and_gradient(student_log, teacher, mix.beta)
        else:
            teacher_log = functional.log_softmax(teacher.float() / mix.temperature, -1)
            distance, slope = divergence_and_gradient(student_log, teacher_log, mix.beta)
        loss += mix.alpha_kd * mix.temperature**2 * distance
        gradient += slope.mul_(mix.alpha_kd * mix.temperature)
    return loss, gradient


def _rows_of(teacher: Tensor | TopK | None, rows: slice) -> Tensor | TopK | None:
    if isinstance(teacher, TopK):
        return teacher.rows(rows)
    return None if teacher is None else teacher[rows]


class _ChunkedLoss(torch.autograd.Function):
    """Computes gradients in the forward pass, while a chunk's logits are there, and only scales them in backward."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, teacher: Head | TopK | None, labels: Tensor, mix: _Mix
    ) -> Tensor:
        head = Head(hidden.detach(), weight.detach())
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_gradient = torch.zeros_like(hidden)
        weight_gradient = torch.zeros_like(weight) if weight.requires_grad else None
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _chunks(len(labels), weight.shape[0]):
                answers = teacher.logits(rows) if isinstance(teacher, Head) else _rows_of(teacher, rows)
                loss, gradient = _chunk_loss_and_gradient(head.logits(rows), answers, labels[rows], mix)
                total += loss
                hidden_gradient[rows] = (gradient @ head.weight).to(hidden.dtype)
                if weight_gradient is not None:
                    weight_gradient.addmm_(gradient.T, head.hidden[rows].to(weight.dtype))
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        scaled_weight = None if weight_gradient is None else weight_gradient * gradients[0]
        return hidden_gradient * gradients[0], scaled_weight, None, None, None
