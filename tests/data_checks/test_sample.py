from collections import defaultdict
from pathlib import Path

import pytest

from data_checks.contract import read_jsonl
from data_checks.sample import SAMPLE_DIR
from data_checks.sample.generate import write_sample
from data_checks.sources import find_files
from registry.records import OUT_OF_SCOPE, SPLITS, LabelSet, Record, load_label_set, normalised_command

LEAK = "Surface grinder SG-402 has a hydraulic fluid leak at the main cylinder seal."
WEATHER = "What's the weather like tomorrow?"


@pytest.fixture(scope="module")
def label_set() -> LabelSet:
    return load_label_set(SAMPLE_DIR / "labels.toml")


@pytest.fixture(scope="module")
def sample(label_set: LabelSet) -> dict[str, list[Record]]:
    read = {split: read_jsonl(SAMPLE_DIR / f"{split}.jsonl", label_set) for split in SPLITS}
    assert not any(problems for _, problems in read.values())
    return {split: records for split, (records, _) in read.items()}


@pytest.fixture(scope="module")
def near_misses(label_set: LabelSet) -> list[Record]:
    records, problems = read_jsonl(SAMPLE_DIR / "near_out_of_scope" / "test.jsonl", label_set)
    assert not problems
    return records


def _said(record: Record) -> str:
    return normalised_command(record.command).rstrip(".?!")


def test_the_generator_writes_the_shipped_bytes(tmp_path: Path) -> None:
    write_sample(tmp_path)
    for name in ("train.jsonl", "validation.jsonl", "test.jsonl", "labels.toml"):
        assert (tmp_path / name).read_bytes() == (SAMPLE_DIR / name).read_bytes(), name


def test_sizes_and_source(sample: dict[str, list[Record]]) -> None:
    assert {split: len(records) for split, records in sample.items()} == {
        "train": 1892,
        "validation": 300,
        "test": 300,
    }
    assert {record.source for records in sample.values() for record in records} == {"synthetic"}


def test_every_split_holds_every_intent_and_enough_out_of_scope(
    sample: dict[str, list[Record]], label_set: LabelSet
) -> None:
    assert len(label_set.intents) >= 8
    for records in sample.values():
        assert {record.response.intent for record in records} == set(label_set.intents)
        assert sum(record.response.intent == OUT_OF_SCOPE for record in records) >= 0.15 * len(records)


def test_no_command_repeats(sample: dict[str, list[Record]]) -> None:
    commands = [_said(record) for records in sample.values() for record in records]
    assert len(commands) == len(set(commands))


def test_every_entity_value_stands_in_its_command(sample: dict[str, list[Record]]) -> None:
    for records in sample.values():
        for record in records:
            assert all(value in record.command for _, value in record.response.entity_values()), record


def test_a_phrase_has_one_entity_type(sample: dict[str, list[Record]]) -> None:
    types: dict[str, set[str]] = defaultdict(set)
    for records in sample.values():
        for record in records:
            for name, value in record.response.entity_values():
                types[value.lower()].add(name)
    assert not {value: found for value, found in types.items() if len(found) > 1}


def test_asset_ids_of_a_split_occur_in_no_other(sample: dict[str, list[Record]]) -> None:
    ids = {
        split: {value for record in records for name, value in record.response.entity_values() if name == "asset_id"}
        for split, records in sample.items()
    }
    assert all(ids.values())
    assert not ids["train"] & ids["validation"]
    assert not ids["train"] & ids["test"]
    assert not ids["validation"] & ids["test"]


def test_two_known_commands_are_asked_in_the_test_split_only(sample: dict[str, list[Record]]) -> None:
    answers = {record.command: record.response for record in sample["test"]}
    assert answers[LEAK].intent == "report_issue"
    assert answers[LEAK].entities == {
        "asset_id": "SG-402",
        "equipment": "Surface grinder",
        "component": "main cylinder seal",
        "issue": "hydraulic fluid leak",
    }
    assert answers[WEATHER].intent == OUT_OF_SCOPE
    assert not {LEAK, WEATHER} & {record.command for record in sample["train"]}


def test_the_golden_commands_are_asked_in_the_test_split(sample: dict[str, list[Record]], label_set: LabelSet) -> None:
    assert len(label_set.golden) == 3
    assert set(label_set.golden) <= {record.command for record in sample["test"]}


def test_the_test_split_refuses_near_misses(sample: dict[str, list[Record]]) -> None:
    refused = " ".join(record.command for record in sample["test"] if record.response.intent == OUT_OF_SCOPE).lower()
    for near_miss in (
        "grind the coffee beans",
        "is the gym's treadmill broken",
        "what machine learns fastest",
    ):
        assert near_miss in refused


def test_near_misses_are_many_and_all_out_of_scope(near_misses: list[Record]) -> None:
    assert len(near_misses) == 453
    assert {(record.response.intent, *record.response.entities) for record in near_misses} == {(OUT_OF_SCOPE,)}


def test_no_near_miss_is_said_twice_or_in_the_sample(
    near_misses: list[Record], sample: dict[str, list[Record]]
) -> None:
    commands = {_said(record) for record in near_misses}
    assert len(commands) == len(near_misses)
    assert not commands & {_said(record) for records in sample.values() for record in records}


def test_no_near_miss_names_a_machine_of_the_plant(near_misses: list[Record], sample: dict[str, list[Record]]) -> None:
    named = (pair for records in sample.values() for record in records for pair in record.response.listed())
    prefixes = {value.split("-")[0] for name, value in named if name == "asset_id"}
    words = {word.split("-")[0] for record in near_misses for word in record.command.split() if "-" in word}
    assert not prefixes & words


def test_near_misses_are_no_part_of_the_sample() -> None:
    assert {file.stem for file in find_files([SAMPLE_DIR])} == set(SPLITS)
