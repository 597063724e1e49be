import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from registry.errors import DataRefused, UsageError
from registry.records import LabelSet, label_set_toml
from registry.store.datasets import AuditStore
from registry.store.snapshots import Snapshot, load_snapshot, take_snapshot

LABELS = label_set_toml(
    LabelSet(name="plant", intents={"report_issue": "a fault"}, entities={"asset_id": "plate", "issue": "fault"})
)


def row(command: str, split: str, **details: Any) -> tuple[str, dict[str, Any]]:
    entities = {"asset_id": command.split()[0], "issue": ["leak"]}
    return split, {
        "command": command,
        "response": {"intent": "report_issue", "entities": entities},
        **details,
    }


ROWS = [
    row("SG-1 lékt", "train"),
    row("SG-2 leaks", "train"),
    row("SG-3 leaks", "validation"),
    row("SG-4 leaks", "test"),
]


def snapshot_of(rows: list[tuple[str, dict[str, Any]]], folder: Path, labels: str = LABELS) -> Snapshot:
    with AuditStore(f"sqlite:///{folder / 'audit.db'}") as store:
        for item in rows:
            store.ingest("plant", [item], source="one row", labels=labels)
        return take_snapshot(store, "plant", folder / "snapshots")


def test_a_snapshot_holds_the_splits_the_labels_and_a_manifest(tmp_path: Path) -> None:
    snapshot = snapshot_of(ROWS, tmp_path)
    assert snapshot.rows == {"train": 2, "validation": 1, "test": 1}
    assert snapshot.id == snapshot.sha256[:12]
    assert snapshot.path == tmp_path / "snapshots" / f"plant-{snapshot.id}"
    assert {path.name for path in snapshot.path.iterdir()} == {
        "train.jsonl", "validation.jsonl", "test.jsonl", "labels.toml", "manifest.json",
    }  # fmt: skip
    assert (snapshot.path / "labels.toml").read_text() == LABELS
    (line,) = snapshot.split("test").read_text().splitlines()
    assert json.loads(line) == {
        "command": "SG-4 leaks",
        "response": {"intent": "report_issue", "entities": {"asset_id": "SG-4", "issue": "leak"}},
    }
    assert "lékt" in snapshot.split("train").read_text(encoding="utf-8")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_types_with_several_values_in_a_training_row_are_lists(split: str, tmp_path: Path) -> None:
    two = (
        split,
        {
            "command": "SG-5 leaks and smells",
            "response": {"intent": "report_issue", "entities": {"asset_id": ["SG-5"], "issue": ["leaks", "smells"]}},
        },
    )
    snapshot = snapshot_of([*ROWS, two], tmp_path)
    assert snapshot.label_set.many == (("issue",) if split == "train" else ())
    with AuditStore(f"sqlite:///{tmp_path / 'audit.db'}") as store:
        assert store.labels("plant") == LABELS, "what the plant wrote stays as it is"


def test_the_digest_is_that_of_the_sha256sum_listing(tmp_path: Path) -> None:
    snapshot = snapshot_of(ROWS, tmp_path)
    names = ["labels.toml", "test.jsonl", "train.jsonl", "validation.jsonl"]
    listing = "".join(f"{hashlib.sha256((snapshot.path / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    assert snapshot.sha256 == hashlib.sha256(listing.encode()).hexdigest()


def test_the_same_rows_give_the_same_snapshot_whenever_and_wherever_they_came_from(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one = snapshot_of(ROWS, tmp_path)
    dated = [row(item["command"], split, created_at="2026-01-01T00:00:00", id="7") for split, item in reversed(ROWS)]
    other = snapshot_of(dated, tmp_path / "other")
    assert (other.id, other.sha256, other.rows) == (one.id, one.sha256, one.rows)


def test_another_row_or_label_set_gives_another_snapshot(tmp_path: Path) -> None:
    one = snapshot_of(ROWS, tmp_path)
    more = snapshot_of([row("SG-5 leaks", "train")], tmp_path)
    relabelled = snapshot_of([], tmp_path)
    with AuditStore(f"sqlite:///{tmp_path / 'audit.db'}") as store:
        store.ingest("plant", [], source="none", labels=LABELS.replace("plate", "its plate"))
        relabelled = take_snapshot(store, "plant", tmp_path / "snapshots")
    assert len({one.id, more.id, relabelled.id}) == 3
    assert load_snapshot(one.path) == one, "an older snapshot stays as it was"


def test_taking_it_again_leaves_the_folder_untouched(tmp_path: Path) -> None:
    one = snapshot_of(ROWS, tmp_path)
    written = (one.path / "manifest.json").stat().st_mtime_ns
    assert snapshot_of([], tmp_path) == one
    assert (one.path / "manifest.json").stat().st_mtime_ns == written


def test_a_taken_snapshot_can_be_marked_as_used(tmp_path: Path) -> None:
    snapshot = snapshot_of(ROWS, tmp_path)
    with AuditStore(f"sqlite:///{tmp_path / 'audit.db'}") as store:
        store.mark_snapshot_used("plant", snapshot.id)
        assert store.due("plant", 1).since_snapshot == snapshot.id


def test_a_changed_snapshot_is_refused(tmp_path: Path) -> None:
    snapshot = snapshot_of(ROWS, tmp_path)
    snapshot.split("test").write_text("")
    with pytest.raises(UsageError, match="was changed after it was taken"):
        load_snapshot(snapshot.path)


@pytest.mark.parametrize("manifest", [None, "{", "[]", "{}", '{"files": {"train.jsonl": ""}}'])
def test_a_folder_that_is_no_snapshot_is_refused(tmp_path: Path, manifest: str | None) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(UsageError, match="is not a snapshot"):
        load_snapshot(tmp_path)


def test_an_empty_dataset_cannot_be_frozen(tmp_path: Path) -> None:
    snapshot_of(ROWS, tmp_path)
    with (
        AuditStore(f"sqlite:///{tmp_path / 'audit.db'}") as store,
        pytest.raises(DataRefused, match=r"'moon' holds no rows \(there are: plant\)"),
    ):
        take_snapshot(store, "moon", tmp_path / "snapshots")
