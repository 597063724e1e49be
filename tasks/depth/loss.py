"""The loss of a model with some of its decoder layers."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tasks.training.examples import Batch
from tasks.training.objective import Objective

_REMEMBERED_BYTES = 512 << 20  # of the outputs of layers

Layers = tuple[int, ...]  # by their numbers in the whole model, ascending


class DepthLoss:
    """Mean cross-entropy per response token of ``model`` with some of its layers; each set is measured once.

    It is infinite where it is no number. Sets that begin with the same layers share the hidden states after them, which
    halves the time.
    """

    def __init__(self, model: PreTrainedModel, batches: Sequence[Batch]) -> None:
        self._objective = Objective(model, head_dtype=torch.float32).eval()
        self._batches = [Batch(*(tensor.to(model.device) for tensor in batch)) for batch in batches]
        self._losses: dict[Layers, float] = {}
        self._states: dict[Layers, list[Tensor]] = {}  # first layers of a set -> hidden states of each batch

    @property
    def layers(self) -> Layers:
        """All of them."""
        return tuple(range(len(self._objective.layers)))

    def __call__(self, kept: Layers) -> float:
        if kept not in self._losses:
            self._losses[kept] = self._measure(kept)
        return self._losses[kept]

    @torch.no_grad()
    def _measure(self, kept: Layers) -> float:
        known = next((end for end in range(len(kept), 0, -1) if kept[:end] in self._states), 0)
        before = self._states.get(kept[:known])
        made: dict[Layers, list[Tensor]] = {kept[: end + 1]: [] for end in range(known, len(kept))}
        total = 0.0
        for place, batch in enumerate(self._batches):
            with self._shortened(kept, known, before[place] if before else None, made):
                total += self._objective(batch).item()
        self._states |= made
        self._forget()
        loss = total / sum(batch.response_tokens for batch in self._batches)
        return math.inf if math.isnan(loss) else loss

    def _forget(self) -> None:
        """The oldest states, until the others fit."""
        room = _REMEMBERED_BYTES
        for kept, states in reversed(list(self._states.items())):
            room -= sum(state.nbytes for state in states)
            if room < 0:
                del self._states[kept]

    @contextmanager
    def _shortened(
        self, kept: Layers, known: int, before: Tensor | None, made: Mapping[Layers, list[Tensor]]
    ) -> Iterator[None]:
        """The model with the layers ``kept``; the first ``known`` of them do not run but put out ``before``."""
        with ExitStack() as stack:
            for number, layer in enumerate(self._objective.layers):
                if known and number == kept[known - 1]:
                    stack.enter_context(_forward(layer, lambda *_, **__: before))
                elif number not in kept[known:]:
                    stack.enter_context(_forward(layer, _skip))
                else:
                    outputs = made[kept[: kept.index(number) + 1]]
                    stack.enter_context(_collected(layer, outputs))
            yield


def _skip(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    """The forward pass of a layer that is left out."""
    return hidden_states


@contextmanager
def _forward(layer: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Let ``function`` stand in for the layer's own forward pass."""
    layer.forward = function
    try:
        yield
    finally:
        del layer.forward


@contextmanager
def _collected(layer: nn.Module, outputs: list[Tensor]) -> Iterator[None]:
    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        outputs.append(output)

    hook = layer.register_forward_hook(keep)
    try:
        yield
    finally:
        hook.remove()
