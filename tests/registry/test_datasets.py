import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import ServiceUnavailable, UsageError
from registry.records import normalised_command, record_digest
from registry.store.datasets import AuditStore
from registry.store.offers import Offer, sort_out

LABELS = 'name = "plant"\n'


def row(
    command: str, split: str = "train", intent: str = "report_issue", **entities: Any
) -> tuple[str, dict[str, Any]]:
    return split, {"command": command, "response": {"intent": intent, "entities": entities}}


@pytest.fixture
def store(tmp_path: Path):
    with AuditStore(f"sqlite:///{tmp_path / 'deep' / 'audit.db'}") as opened:
        yield opened


def commands(store: AuditStore, dataset: str = "plant") -> dict[str, str]:
    return {stored.command: stored.split for stored in store.rows(dataset)}


def test_rows_come_back_with_split_and_answer(store: AuditStore) -> None:
    report = store.ingest("plant", [row("SG-1 leaks", "test", asset_id=["SG-1"])], source="a.jsonl", labels=LABELS)
    assert (report.read, report.new, report.known, report.joined, report.conflicts) == (1, 1, 0, 0, [])
    assert report.rows == {"train": 0, "validation": 0, "test": 1}
    (stored,) = store.rows("plant")
    assert (stored.split, stored.command) == ("test", "SG-1 leaks")
    assert stored.response == {"intent": "report_issue", "entities": {"asset_id": "SG-1"}}
    assert store.labels("plant") == LABELS


def test_the_same_rows_again_change_nothing(store: AuditStore) -> None:
    rows = [row("SG-1 leaks", asset_id="SG-1"), row("SG-2 leaks", asset_id="SG-2")]
    store.ingest("plant", rows, source="a", labels=LABELS)
    before = store.rows("plant")
    again = store.ingest("plant", reversed(rows), source="b", labels=LABELS)
    assert (again.new, again.known) == (0, 2)
    assert store.rows("plant") == before


def test_another_answer_to_a_stored_command_is_a_conflict_and_not_stored(store: AuditStore) -> None:
    store.ingest("plant", [row("SG-1 leaks")], source="a", labels=LABELS)
    report = store.ingest(
        "plant", [row("SG-1 leaks", intent="query_status"), row("SG-2 leaks")], source="b", labels=LABELS
    )
    (conflict,) = report.conflicts
    assert (conflict.command, conflict.stored["intent"], conflict.offered["intent"]) == (
        "SG-1 leaks", "report_issue", "query_status",
    )  # fmt: skip
    assert (report.new, report.rows["train"]) == (1, 2)
    assert {stored.response["intent"] for stored in store.rows("plant")} == {"report_issue"}


def test_two_answers_in_one_batch_are_a_conflict_too(store: AuditStore) -> None:
    report = store.ingest("plant", [row("a b"), row("A  b", intent="query_status")], source="a", labels=LABELS)
    assert (report.new, len(report.conflicts)) == (1, 1)


def test_a_command_in_other_letter_case_joins_the_split_of_its_twin(store: AuditStore) -> None:
    store.ingest("plant", [row("SG-1 leaks", "test", asset_id="SG-1")], source="a", labels=LABELS)
    report = store.ingest("plant", [row("sg-1  leaks", "train", asset_id="sg-1")], source="b", labels=LABELS)
    assert (report.new, report.joined) == (1, 1)
    assert commands(store) == {"SG-1 leaks": "test", "sg-1  leaks": "test"}


def test_datasets_do_not_see_each_other(store: AuditStore) -> None:
    store.ingest("north", [row("SG-1 leaks")], source="a", labels=LABELS)
    report = store.ingest("south", [row("SG-1 leaks", "test", intent="query_status")], source="a", labels="south")
    assert (report.new, report.conflicts) == (1, [])
    assert store.datasets() == ["north", "south"]
    assert commands(store, "south") == {"SG-1 leaks": "test"}
    assert (store.labels("north"), store.labels("south"), store.labels("west")) == (LABELS, "south", None)


def test_a_batch_that_fails_stores_nothing(store: AuditStore) -> None:
    with pytest.raises(UsageError, match="split 'dev' is not known"):
        store.ingest("plant", [row("SG-1 leaks"), row("SG-2 leaks", "dev")], source="a", labels=LABELS)
    unstorable = (
        "train",
        {"command": "x", "response": {"intent": "a", "entities": {}}, "meta": {"when": object()}},
    )
    with pytest.raises(Exception, match="not JSON serializable"):
        store.ingest("plant", [row("SG-1 leaks"), unstorable], source="a", labels=LABELS)
    assert store.rows("plant") == []
    assert store.labels("plant") is None


def test_the_other_fields_of_a_record_are_kept(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'audit.db'}"
    with AuditStore(url) as store:
        split, record = row("SG-1 leaks")
        store.ingest("plant", [(split, {**record, "id": "7", "meta": {"shift": 2}})], source="a", labels=LABELS)
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        (details,) = connection.scalars(sa.text("select details from records"))
    engine.dispose()
    assert json.loads(details) == {"id": "7", "meta": {"shift": 2}}


def test_due_counts_rows_since_the_snapshot_that_was_trained_on(store: AuditStore) -> None:
    assert store.due("plant", 1).model_dump() == {
        "due": False, "new_rows": 0, "minimum_rows": 1, "since_snapshot": None,
    }  # fmt: skip
    store.ingest("plant", [row(f"machine {n}") for n in range(5)], source="a", labels=LABELS)
    assert store.due("plant", 5).due
    store.note_snapshot("plant", "aaaaaaaaaaaa", 5)
    assert store.due("plant", 5).new_rows == 5, "a snapshot that nobody trained on does not count"
    store.mark_snapshot_used("plant", "aaaaaaaaaaaa")
    assert store.due("plant", 1).model_dump() == {
        "due": False, "new_rows": 0, "minimum_rows": 1, "since_snapshot": "aaaaaaaaaaaa",
    }  # fmt: skip
    store.ingest("plant", [row(f"machine {n}") for n in range(8)], source="b", labels=LABELS)
    assert store.due("plant", 4).due is False
    assert store.due("plant", 3).due is True


def test_rows_that_land_during_a_training_count_as_new(store: AuditStore) -> None:
    store.ingest("plant", [row("machine 1")], source="a", labels=LABELS)
    store.note_snapshot("plant", "aaaaaaaaaaaa", 1)
    store.ingest("plant", [row("machine 2")], source="b", labels=LABELS)
    store.mark_snapshot_used("plant", "aaaaaaaaaaaa")
    assert store.due("plant", 1).new_rows == 1


def test_a_snapshot_that_was_never_taken_is_a_usage_error(store: AuditStore) -> None:
    with pytest.raises(UsageError, match="never taken"):
        store.mark_snapshot_used("plant", "bbbbbbbbbbbb")


def test_two_ingestions_at_once_store_every_row_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'audit.db'}"

    def ingest(start: int) -> int:
        with AuditStore(url) as store:
            rows = [row(f"machine {number}") for number in range(start, start + 200)]
            return store.ingest("plant", rows, source="a", labels=LABELS).new

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(ingest, [0, 100, 0, 100])) == 300
    with AuditStore(url) as store:
        assert len(store.rows("plant")) == 300


def test_sqlite_writes_ahead_and_keeps_foreign_keys(store: AuditStore) -> None:
    with store._database.transaction() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "should be like sqlite:///audit.db"),
        ("oracle9://me:secret@host/db", "needs a database driver that is not installed"),
    ],
)
def test_a_url_that_means_nothing_is_a_usage_error_without_the_password(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        AuditStore(url)
    assert "secret" not in str(error.value)


def test_a_file_that_is_no_database_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "audit.db").write_text("this is a letter to the auditor, not a database" * 50)
    with pytest.raises(UsageError, match="is not an audit store"):
        AuditStore(f"sqlite:///{tmp_path / 'audit.db'}")


def test_a_database_out_of_reach_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ServiceUnavailable, match="cannot be reached"):
        AuditStore(f"sqlite:///{tmp_path / 'folder'}")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made"):
        AuditStore(f"sqlite:///{tmp_path / 'file' / 'audit.db'}")


@pytest.mark.parametrize("url", ["nosuch://bob:s3cr3t@db/audit", "nosuch:///audit?user=bob&password=s3cr3t"])
def test_a_database_is_named_without_its_password(url: str) -> None:
    with pytest.raises(UsageError, match="driver that is not installed") as caught:
        AuditStore(url)
    assert "s3cr3t" not in str(caught.value) and "***" in str(caught.value)


texts = st.text(st.sampled_from("aAbB  ßİ"), min_size=1, max_size=6).filter(str.strip)
offers = st.builds(
    lambda split, command, intent, value: Offer.of(
        split, {"command": command, "response": {"intent": intent, "entities": {"asset_id": value}}}
    ),
    st.sampled_from(["train", "test"]), texts, st.sampled_from(["x", "y"]), texts,
)  # fmt: skip


@given(st.lists(offers, max_size=12))
def test_sorted_offers_keep_every_command_in_one_split_with_one_answer(batch: list[Offer]) -> None:
    found = sort_out(batch, [])
    assert len(batch) == len(found.new) + found.known + len(found.conflicts)
    splits: dict[str, set[str]] = {}
    intents: dict[str, set[str]] = {}
    for offer in found.new:
        splits.setdefault(normalised_command(offer.command), set()).add(offer.split)
        intents.setdefault(normalised_command(offer.command), set()).add(offer.response["intent"])
    assert all(len(found) == 1 for found in [*splits.values(), *intents.values()])
    assert len({offer.command for offer in found.new}) == len(found.new)


def test_a_digest_ignores_the_order_of_entities_and_values() -> None:
    one = {"intent": "x", "entities": {"a": ["1", "2"], "b": "3"}}
    other = {"intent": "x", "entities": {"b": ["3"], "a": ["2", "1"]}}
    assert record_digest("go", one) == record_digest("go", other)
    assert record_digest("go", one) != record_digest("Go", one)
    assert record_digest("go", one) != record_digest("go", {**one, "intent": "y"})
