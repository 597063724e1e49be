"""What a batch costs: hidden states at the response positions, and the loss computed from them."""

from typing import Any

import torch
from torch import Tensor, nn

from tasks.distill.kd import Head, chunked_kd_loss
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

    def __call__(self, batch: Batch) -> Head:
        output = self._backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        hidden = output.last_hidden_state[batch.labels != IGNORE_INDEX]
        if self._trained:
            return Head(hidden, self._embedding.weight.to(self._dtype))
        cast = self._cast
        if cast is None:
            cast = self._cast = self._embedding.weight.detach().to(self._dtype)
        return Head(hidden, cast)


class Objective(nn.Module):
    """Loss of a batch summed over its response tokens: cross-entropy, and KL to a teacher where there is one."""

    def __init__(
        self,
        model: nn.Module,
        *,
        head_dtype: torch.dtype,
        teacher: nn.Module | None = None,
        temperature: float = 1.0,
        alpha_kd: float = 0.0,
        alpha_ce: float = 1.0,
    ) -> None:
        super().__init__()
        self.model = model
        self._student_head = _ResponseHead(model, head_dtype)
        self._teacher_head = None if teacher is None else _ResponseHead(teacher, head_dtype)
        self._mix = {"temperature": temperature, "alpha_kd": alpha_kd, "alpha_ce": alpha_ce}

    def forward(self, batch: Batch) -> Tensor:
        """The mixed loss in training, plain cross-entropy in evaluation mode, which compares across recipes."""
        labels = batch.labels[batch.labels != IGNORE_INDEX]
        with quantised_once():
            student = self._student_head(batch)
            if not self.training:
                return chunked_kd_loss(student, None, labels)
            teacher = None
            if self._teacher_head is not None:
                with torch.no_grad():
                    teacher = self._teacher_head(batch)
            return chunked_kd_loss(student, teacher, labels, **self._mix)
