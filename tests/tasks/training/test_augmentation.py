"""Varied records: still true, in other words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_checks.contract import read_jsonl
from data_checks.sample import SAMPLE_DIR
from registry.records import OUT_OF_SCOPE, Record, Response
from tasks.training.augmentation import value_pools, varied

SAMPLE, _ = read_jsonl(SAMPLE_DIR / "train.jsonl")
POOLS = value_pools(SAMPLE, across_intents=True)


INTENT = "report_issue"


def record(command: str, intent: str = INTENT, **entities: str | list[str]) -> Record:
    return Record(command=command, response=Response(intent=intent, entities=entities))


@given(
    rows=st.lists(st.sampled_from(SAMPLE), min_size=1, max_size=20),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 100),
)
def test_every_label_of_a_varied_record_stands_in_its_command(rows: list[Record], seed: int, epoch: int) -> None:
    for before, after in zip(rows, varied(rows, POOLS, seed=seed, epoch=epoch), strict=True):
        assert after.response.intent == before.response.intent
        assert list(after.response.entities) == list(before.response.entities)
        for name, value in before.response.entities.items():
            other = after.response.entities[name]
            assert type(other) is type(value) and (isinstance(value, str) or len(other) == len(value))
        for _, value in after.response.entity_values():
            assert value in after.command


@given(seed=st.integers(0, 2**31), epoch=st.integers(0, 100))
def test_out_of_scope_records_stay_as_they_are(seed: int, epoch: int) -> None:
    rows = [row for row in SAMPLE if row.response.intent == OUT_OF_SCOPE][:100]
    assert varied(rows, POOLS, seed=seed, epoch=epoch) == rows


def test_the_same_seed_and_epoch_give_the_same_records() -> None:
    rows = SAMPLE[:200]
    first = varied(rows, POOLS, seed=1, epoch=2)
    assert varied(rows, POOLS, seed=1, epoch=2) == first
    assert varied(rows, POOLS, seed=1, epoch=3) != first
    assert varied(rows, POOLS, seed=2, epoch=2) != first


def test_most_records_change_and_the_given_ones_do_not() -> None:
    in_scope = [row for row in SAMPLE if row.response.entities][:200]
    copy = [row.model_copy(deep=True) for row in in_scope]
    changed = sum(a != b for a, b in zip(in_scope, varied(in_scope, POOLS, seed=1, epoch=0), strict=True))
    assert in_scope == copy
    assert changed > 150


def test_pools_hold_each_value_as_often_as_it_occurs() -> None:
    rows = [record("a SG-1", asset_id="SG-1"), record("b SG-1 SG-2", asset_id=["SG-1", "SG-2"])]
    assert value_pools(rows, across_intents=False) == {(INTENT, "asset_id"): ["SG-1", "SG-1", "SG-2"]}


def test_pools_across_intents_hold_the_values_of_all() -> None:
    rows = [record("a SG-1", asset_id="SG-1"), record("b SG-2", "update_status", asset_id="SG-2")]
    assert value_pools(rows, across_intents=True) == {
        (intent, "asset_id"): ["SG-1", "SG-2"] for intent in (INTENT, "update_status")
    }


def test_a_value_that_makes_the_intent_gives_way_to_others_of_that_intent_only() -> None:
    verbs = {"fix": "repair", "mend": "repair", "swap": "replace", "change": "replace"}
    rows = [record(f"{verb} the pump", intent=intent, activity=verb) for verb, intent in verbs.items()]
    pools = value_pools(rows, across_intents=False)
    found = {
        (row.response.intent, str(row.response.entities["activity"]))
        for seed in range(20)
        for row in varied(rows, pools, seed=seed, epoch=0)
    }
    assert found == {(intent, verb) for verb, intent in verbs.items()}


@pytest.mark.parametrize(
    "row",
    [
        record("oil leak, oil everywhere", fluid="oil"),  # which one is meant?
        record("the toiler broke", fluid="oil"),  # part of another word
        record("the seal by the bearing", part="seal"),  # the other value stands there already
        record("seal of the main seal ring", part="main seal", ring="main seal ring"),  # one inside the other
        record("the main pump seal", part="main pump", ring="pump seal"),  # one over the end of the other
    ],
    ids=lambda row: row.command,
)
def test_a_value_that_does_not_stand_alone_is_kept(row: Record) -> None:
    pools = {(INTENT, "fluid"): ["coolant"], (INTENT, "part"): ["bearing"], (INTENT, "ring"): ["flange"]}
    assert [varied([row], pools, seed=seed, epoch=0)[0] for seed in range(20)] == [row] * 20


def test_digits_are_renamed_alike_in_command_and_answer() -> None:
    row = record("check SG-4021 and ask 4021 about 99", asset_id="SG-4021", number="99")
    pools = value_pools([row], across_intents=True)
    seen = set()
    for seed in range(30):
        (after,) = varied([row], pools, seed=seed, epoch=0)
        asset, number = after.response.entities["asset_id"], after.response.entities["number"]
        assert isinstance(asset, str) and isinstance(number, str)
        assert after.command == f"check {asset} and ask {asset[3:]} about {number}"
        assert len(set(asset[3:])) == 4 and number[0] == number[1]
        seen.add(asset)
    assert len(seen) > 20


@pytest.mark.parametrize(
    "row",
    [record("two of 4 bolts by 1 May", number="2"), record("by 1 May", date="2027-05-01")],
    ids=lambda row: row.command,
)
def test_digits_that_the_answer_does_not_copy_are_kept(row: Record) -> None:
    assert [varied([row], value_pools([row], across_intents=True), seed=seed, epoch=0)[0] for seed in range(10)] == [
        row
    ] * 10
