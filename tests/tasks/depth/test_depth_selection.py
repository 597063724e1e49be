"""Which layers go: one after another, and only where llama.cpp can compute what stays."""

import math
from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import UsageError
from tasks.checkpoints.architectures import describe
from tasks.checkpoints.architectures.gemma3 import layer_types
from tasks.depth.loss import Layers
from tasks.depth.selection import exportable_orders, leave_out

_CONFIG = {"model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2,
           "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 300, "sliding_window": 16}  # fmt: skip
_SAME = ["full_attention"] * 6


def kept_of(depth: int, removals: Sequence) -> Layers:
    return tuple(sorted(set(range(depth)) - {removal.layer for removal in removals}))


def test_the_next_layer_is_measured_without_those_before() -> None:
    """Layers 1 and 2 each stand in for the other, so only one of them is free."""

    def loss(kept: Layers) -> float:
        cost = [1.0, 0.1, 0.1, 0.5, 0.3, 1.0]
        return sum(cost[layer] for layer in range(6) if layer not in kept) + 5.0 * (not {1, 2} & set(kept))

    removals = leave_out(loss, _SAME, 4)
    assert [removal.layer for removal in removals] == [1, 4]
    assert [removal.loss for removal in removals] == pytest.approx([0.1, 0.4])


def test_layers_of_one_kind_go_by_their_cost() -> None:
    costs = [3.0, 1.0, 4.0, 1.5, 9.0, 2.0]
    removals = leave_out(lambda kept: sum(costs) - sum(costs[layer] for layer in kept), _SAME, 2)
    assert [removal.layer for removal in removals] == [1, 3, 5, 0]


def test_the_order_with_the_lowest_loss_is_taken() -> None:
    kinds = layer_types(4, 3)
    costs = {0: 1.0, 1: 2.0, 2: 0.5, 3: 4.0}
    removals = leave_out(lambda kept: sum(costs[layer] for layer in range(4) if layer not in kept), kinds, 3)
    assert [removal.layer for removal in removals] == [2]


@given(
    depth=st.integers(2, 20),
    period=st.sampled_from([0, 1, 3, 6]),
    seed=st.integers(0, 1000),
    share=st.floats(0, 1, exclude_max=True),
)
def test_what_stays_can_always_be_exported(depth: int, period: int, seed: int, share: float) -> None:
    kinds, layers = layer_types(depth, period), max(1, math.floor(share * depth))

    def loss(kept: Layers) -> float:
        return depth - len(kept) + hash((kept, seed)) % 1000 / 1001

    kept = kept_of(depth, leave_out(loss, kinds, layers))
    assert len(kept) == layers
    config = _CONFIG | {"num_hidden_layers": layers, "layer_types": [kinds[layer] for layer in kept]}
    describe(config)  # refuses what llama.cpp would compute otherwise


@given(depth=st.integers(2, 9), period=st.sampled_from([0, 1, 2, 3, 4]), data=st.data())
def test_the_orders_are_all_that_the_exporter_takes(depth: int, period: int, data: st.DataObject) -> None:
    kinds, layers = layer_types(depth, period), data.draw(st.integers(1, depth - 1))
    taken = set()
    for kept in combinations(range(depth), layers):
        order = tuple(kinds[layer] for layer in kept)
        try:
            describe(_CONFIG | {"num_hidden_layers": layers, "layer_types": list(order)})
        except UsageError:
            continue
        taken.add(order)
    assert set(exportable_orders(kinds, layers)) == taken


def test_kinds_that_can_never_be_exported_are_refused() -> None:
    kinds = ["full_attention", "full_attention", "sliding_attention", "sliding_attention"]
    assert kept_of(4, leave_out(lambda kept: 0.0, kinds, 2)) in {(0, 1), (2, 3)}
    with pytest.raises(UsageError, match="no 3 of the 4 layers have local and global attention in an order that llama"):
        leave_out(lambda kept: 0.0, kinds, 3)
