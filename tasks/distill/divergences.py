"""Divergences between a teacher's and a student's next-token distributions, with their gradients in closed form.

One number ``beta`` names them all, as in generalised knowledge distillation (Agarwal et al. 2023, arXiv:2306.13649):

    beta = 0        KL(teacher || student), the forward KL of Hinton et al. 2015
    0 < beta < 1    beta KL(teacher || m) + (1 - beta) KL(student || m), with m = beta teacher + (1 - beta) student
    beta = 1        KL(student || teacher), the reverse KL

Towards its ends the middle form goes to zero, as beta KL or (1 - beta) KL, and does not meet them: a small beta needs a
larger weight.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

_LOG_TINY = math.log(torch.finfo(torch.float32).tiny)  # of a mass that is 0


class TopK(NamedTuple):
    """A teacher's likeliest tokens, and the mass that all other tokens have together."""

    tokens: Tensor  # (N, K) int64
    log_probabilities: Tensor  # (N, K) float32, at the temperature of the loss
    log_rest: Tensor  # (N, 1) float32

    @classmethod
    def of(cls, logits: Tensor, k: int, temperature: float) -> "TopK":
        """The ``k`` likeliest tokens of each row of ``logits`` (N, V) at ``temperature``."""
        scaled = logits.float() / temperature
        total = scaled.logsumexp(-1, keepdim=True)
        top = scaled.topk(min(k, scaled.shape[-1]), dim=-1)
        # summed by itself: 1 minus the likeliest would be 0 for a teacher that is sure
        rest = scaled.scatter_(-1, top.indices, -torch.inf).logsumexp(-1, keepdim=True) - total
        return cls(top.indices, top.values - total, rest.clamp_min_(_LOG_TINY))

    def rows(self, rows: slice) -> "TopK":
        return TopK(*(part[rows] for part in self))


def divergence(student_log: Tensor, teacher_log: Tensor, beta: float) -> Tensor:
    """Divergence per position (N,) of distributions given as log-probabilities (N, V)."""
    teacher, student = teacher_log.exp(), student_log.exp()
    if beta == 0:
        return (teacher * (teacher_log - student_log)).sum(-1)
    if beta == 1:
        return (student * (student_log - teacher_log)).sum(-1)
    mixture_log = _mixture(student_log, teacher_log, beta)
    from_teacher = (teacher * (teacher_log - mixture_log)).sum(-1)
    from_student = (student * (student_log - mixture_log)).sum(-1)
    return beta * from_teacher + (1 - beta) * from_student


def divergence_and_gradient(student_log: Tensor, teacher_log: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """:func:`divergence` summed over positions, and its gradient with respect to the student's logits (N, V).

    ``teacher_log`` is used as scratch space.
    """
    if beta == 0:
        teacher = teacher_log.exp()
        total = torch.sum(teacher * teacher_log.sub_(student_log))
        return total, student_log.exp().sub_(teacher)
    student = student_log.exp()
    if beta == 1:
        share, excess, from_teacher = 1.0, torch.sub(student_log, teacher_log), 0.0
    else:
        mixture_log = _mixture(student_log, teacher_log, beta)
        share, excess = 1 - beta, student_log - mixture_log
        from_teacher = beta * torch.sum(teacher_log.exp() * teacher_log.sub_(mixture_log))
    from_student = (student * excess).sum(-1, keepdim=True)
    return from_teacher + share * from_student.sum(), student.mul_(excess.sub_(from_student)).mul_(share)


def sparse_divergence_and_gradient(student_log: Tensor, teacher: TopK, beta: float) -> tuple[Tensor, Tensor]:
    """The same against a :class:`TopK`: its K tokens and all others together are K + 1 outcomes.

    Never above the divergence from the whole distribution (log-sum inequality); equal to it where the student spreads
    the remaining mass as the teacher does.
    """
    tail_probabilities = student_log.exp().scatter_(-1, teacher.tokens, 0.0)
    tail = tail_probabilities.sum(-1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny)
    student_outcomes = torch.cat([student_log.gather(-1, teacher.tokens), tail.log()], -1)
    teacher_outcomes = torch.cat([teacher.log_probabilities, teacher.log_rest], -1)
    total, slope = divergence_and_gradient(student_outcomes, teacher_outcomes, beta)
    gradient = tail_probabilities.mul_(slope[:, -1:] / tail)
    return total, gradient.scatter_(-1, teacher.tokens, slope[:, :-1])


def _mixture(student_log: Tensor, teacher_log: Tensor, beta: float) -> Tensor:
    return torch.logaddexp(teacher_log + math.log(beta), student_log + math.log1p(-beta))
