"""What a batch costs: hidden states at the response positions, and the loss computed from them."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tasks.distill.divergences import TopK
from tasks.distill.kd import Head, chunked_kd_loss, likeliest_tokens
from tasks.distill.teacher_cache import TeacherCache, identity
from tasks.quant.qat import quantised_once
from tasks.training.examples import IGNORE_INDEX, Batch


class _ResponseHead:
    """The hidden states of a causal language model at the response positions, with its output embedding."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        causal_lm = model.get_base_model() if hasattr(model, "peft_config") else model
        self._backbone = causal_lm.base_model
        # of a tied pair the input embedding is the one that carries the fake quantiser
        tied = causal_lm.config.tie_word_embeddings
        self._embedding = causal_lm.get_input_embeddings() if tied else causal_lm.get_output_embeddings()
        self._trained = any(parameter.requires_grad for parameter in self._embedding.parameters())
        self._dtype = dtype
        self._cast: Tensor | None = None

    @property
    def layers(self) -> nn.ModuleList:
        return self._backbone.layers

    def __call__(self, batch: Batch) -> Head:
        output = self._backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        hidden = output.last_hidden_state[batch.labels != IGNORE_INDEX]
        if self._trained:
            return Head(hidden, self._embedding.weight.to(self._dtype))
        cast = self._cast
        if cast is None:
            cast = self._cast = self._embedding.weight.detach().to(self._dtype)
        return Head(hidden, cast)


class _CachedTeacher:
    """A teacher that is asked once for each example and answers with its likeliest tokens."""

    def __init__(
        self, teacher: nn.Module, cache: TeacherCache, *, top_k: int, temperature: float, head_dtype: torch.dtype
    ) -> None:
        self._head = _ResponseHead(teacher, head_dtype)
        self._top_k, self._temperature = top_k, temperature
        self._cache = cache

    def __call__(self, batch: Batch) -> TopK:
        counted = batch.labels != IGNORE_INDEX
        lengths, starts = batch.attention_mask.sum(-1).tolist(), counted.int().argmax(-1).tolist()
        examples = [identity(batch.input_ids[row, : lengths[row]], starts[row] + 1) for row in range(len(lengths))]

        def ask(places: list[int]) -> list[TopK]:
            head = self._head(Batch(*(part[places] for part in batch)))
            kept = likeliest_tokens(head, self._top_k, self._temperature)
            return [kept.rows(rows) for rows in _row_slices(counted[places].sum(-1).tolist())]

        answer = self._cache.answer(examples, ask)
        return TopK(*(part.to(batch.input_ids.device) for part in answer))


def _row_slices(counts: list[int]) -> list[slice]:
    ends = list(itertools.accumulate(counts))
    return [slice(end - count, end) for count, end in zip(counts, ends, strict=True)]


class Objective(nn.Module):
    """Loss of a batch summed over its response tokens: cross-entropy, mixed with the divergence from a teacher.

    Args:
        cache: where a teacher's answers are kept; None asks it at every step.
        top_k: how many tokens of an answer are kept.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        head_dtype: torch.dtype,
        teacher: nn.Module | None = None,
        temperature: float = 1.0,
        alpha_kd: float = 0.0,
        alpha_ce: float = 1.0,
        beta: float = 0.0,
        cache: TeacherCache | None = None,
        top_k: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self._student_head = _ResponseHead(model, head_dtype)
        self._teacher: Callable[[Batch], Head | TopK] | None = None
        self._cache = cache
        if teacher is not None and cache is not None:
            self._teacher = _CachedTeacher(teacher, cache, top_k=top_k, temperature=temperature, head_dtype=head_dtype)
        elif teacher is not None:
            self._teacher = _ResponseHead(teacher, head_dtype)
        self._mix = {"temperature": temperature, "alpha_kd": alpha_kd, "alpha_ce": alpha_ce, "beta": beta}

    def forward(self, batch: Batch) -> Tensor:
        """The mixed loss in training, plain cross-entropy in evaluation mode, which compares across recipes."""
        labels = batch.labels[batch.labels != IGNORE_INDEX]
        with quantised_once():
            student = self._student_head(batch)
            if not self.training:
                return chunked_kd_loss(student, None, labels)
            teacher = None
            if self._teacher is not None and len(labels):
                with torch.no_grad():
                    teacher = self._teacher(batch)
            return chunked_kd_loss(student, teacher, labels, **self._mix)

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers of the trained model."""
        return self._student_head.layers

    def save_cache(self) -> None:
        """Write the answers that the teacher has given since the last time."""
        if self._cache is not None:
            self._cache.save()
