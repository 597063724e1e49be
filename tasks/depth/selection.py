"""Which layers to leave out, measured one after another.

The next layer is measured with the others gone already (SLEB, Song et al. 2024, arXiv:2402.09025): of two neighbours
each may be dispensable because of the other, so scores that were measured once do not add up.
"""

import logging
from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict

from registry.errors import UsageError
from tasks.checkpoints.architectures.gemma3 import layer_types
from tasks.depth.loss import Layers

logger = logging.getLogger(__name__)

Loss = Callable[[Layers], float]


class Removal(BaseModel):
    """A layer that was left out, and the loss of the model without it and those before."""

    model_config = ConfigDict(frozen=True)

    layer: int
    loss: float


def without(kept: Layers, layer: int) -> Layers:
    return tuple(number for number in kept if number != layer)


def leave_out(loss: Loss, kinds: Sequence[str], layers: int) -> list[Removal]:
    """Which layers to leave out until ``layers`` stay, in the order in which they went.

    Of a Gemma only some sets of layers can be exported: those whose kinds of attention are in an order that llama.cpp
    knows. For each such order the layer goes next that costs least, of those that the order allows; the order with the
    lowest loss in the end is taken. An order is given up on the way, at the first layer whose removal costs as much as
    all removals of an earlier order: another layer's may lower the loss again, but rarely by so much.

    Args:
        loss: of the model with a set of layers.
        kinds: of attention, of each layer of the whole model.

    Raises:
        UsageError: no set of so many layers can be exported.
    """
    best: list[Removal] = []
    for order in require_exportable(kinds, layers):
        found = _leave_out(loss, kinds, order, below=best[-1].loss if best else None)
        if found:
            best = found
            logger.info("without layers %s: loss %.4f", ", ".join(str(gone.layer) for gone in best), best[-1].loss)
    return best


def require_exportable(kinds: Sequence[str], layers: int) -> list[tuple[str, ...]]:
    """The orders of :func:`exportable_orders`. Raises UsageError where there are none."""
    orders = exportable_orders(kinds, layers)
    if not orders:
        raise UsageError(
            f"no {layers} of the {len(kinds)} layers have local and global attention in an order that llama.cpp knows; "
            "keep fewer."
        )
    return orders


def exportable_orders(kinds: Sequence[str], layers: int) -> list[tuple[str, ...]]:
    """The orders of ``layers`` kinds of attention that are a part of ``kinds`` and have a period, as llama.cpp asks."""
    periodic = dict.fromkeys(tuple(layer_types(layers, period)) for period in range(layers + 1))
    return [order for order in periodic if _is_part(order, kinds)]


def _leave_out(loss: Loss, kinds: Sequence[str], order: Sequence[str], *, below: float | None) -> list[Removal]:
    """The removals that lead to ``order``; none as soon as the loss is not ``below`` that of an order found before."""
    kept: Layers = tuple(range(len(kinds)))
    removals: list[Removal] = []
    while len(kept) > len(order):
        rests = {layer: without(kept, layer) for layer in kept}
        allowed = [layer for layer, rest in rests.items() if _is_part(order, [kinds[number] for number in rest])]
        cheapest = min(allowed, key=lambda layer: loss(rests[layer]))
        kept = rests[cheapest]
        if below is not None and loss(kept) >= below:
            return []
        removals.append(Removal(layer=cheapest, loss=loss(kept)))
    return removals


def _is_part(order: Sequence[str], kinds: Sequence[str]) -> bool:
    """Whether ``order`` is what stays of ``kinds`` where some are left out."""
    rest = iter(kinds)
    return all(kind in rest for kind in order)
