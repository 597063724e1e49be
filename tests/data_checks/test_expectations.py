"""Great Expectations itself judges here; importing it takes several seconds once."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from data_checks.check_report import CheckReport, SnapshotRefused
from data_checks.contract import write_jsonl
from data_checks.expectations import check_snapshot
from data_checks.refusals import LinesRefused
from data_checks.sample import SAMPLE_DIR
from data_checks.suites import SnapshotLimits
from registry.records import OUT_OF_SCOPE, LabelSet, Record, Response, label_set_toml

LABELS = LabelSet(
    name="plant",
    intents={"report_issue": "", "query_status": "", OUT_OF_SCOPE: ""},
    entities={"asset_id": ""},
)
SMALL = SnapshotLimits(minimum_train=3, minimum_validation=1, minimum_test=1)
Splits = dict[str, list[Record]]


def record(command: str, intent: str = "report_issue", **entities: str) -> Record:
    return Record(command=command, response=Response(intent=intent, entities=dict(entities)))


def sound() -> Splits:
    return {
        "train": [
            record("SG-1 leaks", asset_id="SG-1"),
            record("how is SG-2?", "query_status", asset_id="SG-2"),
            record("hello", OUT_OF_SCOPE),
        ],
        "validation": [record("SG-3 leaks", asset_id="SG-3")],
        "test": [record("sg-4 leaks", asset_id="SG-4"), record("good morning", OUT_OF_SCOPE)],
    }


def write(splits: Splits, folder: Path, labels: LabelSet = LABELS) -> Path:
    folder.mkdir(exist_ok=True)
    for split, records in splits.items():
        write_jsonl(folder / f"{split}.jsonl", records)
    (folder / "labels.toml").write_text(label_set_toml(labels), encoding="utf-8")
    return folder


def check(splits: Splits, tmp_path: Path, limits: SnapshotLimits = SMALL, labels: LabelSet = LABELS) -> CheckReport:
    return check_snapshot(write(splits, tmp_path / "snapshot", labels), tmp_path / "docs", limits)


def test_the_shipped_sample_is_sound_and_its_docs_open_without_a_network(tmp_path: Path) -> None:
    report = check_snapshot(SAMPLE_DIR, tmp_path / "docs")
    assert report.passed
    assert len(report.expectations) >= 15
    assert {item.name: item.observed for item in report.expectations}["rows of train"] == "1892"
    assert report.data_docs == tmp_path / "docs" / "index.html"
    pages = list((tmp_path / "docs").rglob("*.html"))
    assert len(pages) == 7
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<script|<link|<img|@import|url\(", text), page
        for target in re.findall(r"""href=["']([^"'#]+)["']""", text):
            assert target.startswith("https://") or (page.parent / target).exists(), (page, target)


def test_nothing_is_left_in_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    assert check(sound(), tmp_path).passed
    assert list((tmp_path / "home").iterdir()) == []
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"


def leaked(splits: Splits) -> None:
    splits["test"].append(record("sg-1  LEAKS", asset_id="SG-1"))


def contradicted(splits: Splits) -> None:
    splits["train"].append(record("SG-1 leaks", "query_status", asset_id="SG-1"))


def unknown_intent(splits: Splits) -> None:
    splits["train"].append(record("SG-9 dances", "dance"))


def unknown_entity(splits: Splits) -> None:
    splits["train"].append(record("SG-9 is red", colour="red"))


def entities_out_of_scope(splits: Splits) -> None:
    splits["train"].append(record("hello SG-9", OUT_OF_SCOPE, asset_id="SG-9"))


def untrained_intent(splits: Splits) -> None:
    splits["train"] = [item for item in splits["train"] if item.response.intent != "query_status"]
    splits["train"].append(record("SG-9 leaks", asset_id="SG-9"))
    splits["test"].append(record("how is SG-5?", "query_status", asset_id="SG-5"))


def no_out_of_scope(splits: Splits) -> None:
    splits["train"][2] = record("SG-9 leaks", asset_id="SG-9")
    splits["test"].pop()


def too_few_rows(splits: Splits) -> None:
    splits["validation"].clear()


def invented_values(splits: Splits) -> None:
    splits["train"].append(record("the press leaks", asset_id="PRS-0093"))


@pytest.mark.parametrize(
    ("spoil", "name", "observed"),
    [
        (leaked, "no command in two splits", "1 of 6 rows break it: 'sg-1 leaks'"),
        (contradicted, "no command with two answers", "1 of 6 rows break it: 'sg-1 leaks'"),
        (unknown_intent, "intent is in the label set", "1 of 7 rows break it: 'SG-9 dances'"),
        (unknown_entity, "entity type is in the label set", "1 of 5 rows break it: 'SG-9 is red'"),
        (entities_out_of_scope, "out_of_scope has no entities", "1 of 3 rows break it: 'hello SG-9'"),
        (untrained_intent, "intent of a test row was trained", "1 of 3 rows break it: 'how is SG-5?'"),
        (no_out_of_scope, "share of out_of_scope in train", "0"),
        (too_few_rows, "rows of validation", "0"),
        (invented_values, "entity value stands in the command", "1 of 5 rows break it: 'the press leaks'"),
    ],
)
def test_a_spoilt_snapshot_is_refused_by_name(
    tmp_path: Path, spoil: Callable[[Splits], None], name: str, observed: str
) -> None:
    splits = sound()
    spoil(splits)
    with pytest.raises(SnapshotRefused, match=re.escape(f"{name} (wanted ")) as refused:
        check(splits, tmp_path)
    failed = {item.name: item.observed for item in refused.value.report.expectations if not item.passed}
    assert failed == {name: observed}
    assert refused.value.exit_code == 4
    assert ">failed<" in (tmp_path / "docs" / "index.html").read_text()


def test_a_limit_of_the_plant_can_allow_it(tmp_path: Path) -> None:
    splits = sound()
    invented_values(splits)
    assert check(splits, tmp_path, SMALL.model_copy(update={"minimum_in_command": 0.8})).passed


def test_a_label_set_without_entities_can_be_sound(tmp_path: Path) -> None:
    splits = {
        split: [
            item.model_copy(update={"response": Response(intent=item.response.intent, entities={})}) for item in items
        ]
        for split, items in sound().items()
    }
    assert check(splits, tmp_path, labels=LABELS.model_copy(update={"entities": {}})).passed


def test_a_line_that_is_no_record_is_refused_before_any_check(tmp_path: Path) -> None:
    folder = write(sound(), tmp_path / "snapshot")
    (folder / "test.jsonl").write_text("not json\n")
    with pytest.raises(LinesRefused, match=r"test\.jsonl line 1"):
        check_snapshot(folder, tmp_path / "docs", SMALL)
    assert not (tmp_path / "docs").exists()
