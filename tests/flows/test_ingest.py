"""Ingestion: the plain function on a real audit store, and the flow under Prefect's test harness."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from rich.console import Console

from data_checks.contract import write_jsonl
from data_checks.refusals import LinesRefused
from flows.ingest import RETRAINING_DUE, due, ingest, ingest_paths, ingest_table
from flows.settings import PROFILES_FOLDER
from registry.errors import UsageError
from registry.home import Home
from registry.records import LabelSet, Record, Response, label_set_toml
from registry.store.datasets import AuditStore

LABELS = LabelSet(name="plant-7", intents={"report_issue": "", "query_status": ""}, entities={"asset_id": ""})


def record(command: str, intent: str = "report_issue", **entities: str) -> Record:
    return Record(command=command, response=Response(intent=intent, entities=dict(entities)))


def write(path: Path, *records: Record) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(path, records)
    return path


def _profile(folder: Path, minimum_rows: int) -> str:
    """The shipped tiny profile with another number of new rows that make retraining due."""
    lines = (PROFILES_FOLDER / "tiny.toml").read_text().splitlines()
    changed = [f"minimum_rows = {minimum_rows}" if line.startswith("minimum_rows") else line for line in lines]
    path = folder / f"due-{minimum_rows}.toml"
    path.write_text("\n".join(changed))
    return str(path)


@pytest.fixture
def store(tmp_path: Path):
    with AuditStore(Home(path=tmp_path / "home").database_url) as opened:
        yield opened


def test_a_folder_without_labels_becomes_a_dataset_with_the_labels_it_uses(tmp_path: Path, store: AuditStore) -> None:
    write(tmp_path / "line 3" / "train.jsonl", record("SG-1 leaks", asset_id="SG-1"))
    write(tmp_path / "line 3" / "test.jsonl", record("how is SG-2?", "query_status", asset_id="SG-2"))
    report = ingest_paths(store, [tmp_path / "line 3"])
    assert (report.dataset, report.new) == ("line-3", 2)
    assert report.rows == {"train": 1, "validation": 0, "test": 1}
    labels = store.labels("line-3")
    assert labels is not None
    assert "query_status" in labels


def test_later_files_are_read_by_the_stored_label_set(tmp_path: Path, store: AuditStore) -> None:
    ingest_paths(store, [write(tmp_path / "plant" / "train.jsonl", record("SG-1 leaks", asset_id="SG-1"))])
    strange = write(tmp_path / "later.jsonl", record("SG-1 dances", "dance"))
    with pytest.raises(LinesRefused, match="unknown intent 'dance'"):
        ingest_paths(store, [strange], dataset="plant")
    assert [row.command for row in store.rows("plant")] == ["SG-1 leaks"]


def test_a_label_set_beside_the_files_names_the_dataset(tmp_path: Path, store: AuditStore) -> None:
    file = write(tmp_path / "in" / "monday.jsonl", record("SG-1 leaks"))
    (tmp_path / "in" / "labels.toml").write_text(label_set_toml(LABELS))
    assert ingest_paths(store, [file]).dataset == "plant-7"
    assert store.labels("plant-7") == label_set_toml(LABELS)


def test_a_given_label_set_comes_before_the_one_beside_the_files(tmp_path: Path, store: AuditStore) -> None:
    file = write(tmp_path / "in" / "monday.jsonl", record("SG-1 leaks"))
    (tmp_path / "in" / "labels.toml").write_text(label_set_toml(LABELS))
    other = tmp_path / "other.toml"
    other.write_text(label_set_toml(LABELS.model_copy(update={"name": "plant-8"})))
    assert ingest_paths(store, [file], labels=other).dataset == "plant-8"


def test_a_label_set_may_grow_but_must_fit_what_is_stored(tmp_path: Path, store: AuditStore) -> None:
    file = write(tmp_path / "in" / "monday.jsonl", record("SG-1 leaks", asset_id="SG-1"))
    ingest_paths(store, [file], dataset="plant")
    wider, narrower = tmp_path / "wider.toml", tmp_path / "narrower.toml"
    wider.write_text(label_set_toml(LABELS.model_copy(update={"intents": {**LABELS.intents, "dance": "new"}})))
    narrower.write_text(label_set_toml(LABELS.model_copy(update={"entities": {}})))
    new = write(tmp_path / "new.jsonl", record("SG-1 dances", "dance"))
    assert ingest_paths(store, [new], dataset="plant", labels=wider).new == 1
    plain = write(tmp_path / "plain.jsonl", record("it leaks"))
    with pytest.raises(UsageError, match="does not fit dataset 'plant', which holds 'SG-1 "):
        ingest_paths(store, [plain], dataset="plant", labels=narrower)
    assert len(store.rows("plant")) == 2


def test_an_empty_store_and_an_unknown_dataset_are_usage_errors(tmp_path: Path, store: AuditStore) -> None:
    home = tmp_path / "home"
    with pytest.raises(UsageError, match="is empty; ingest"):
        due(None, home)
    ingest_paths(store, [write(tmp_path / "a.jsonl", record("SG-1 leaks"))])
    with pytest.raises(UsageError, match="'c' is not in the audit store; it holds a"):
        due("c", home)


def test_each_dataset_has_a_verdict_of_its_own(tmp_path: Path, store: AuditStore) -> None:
    ingest_paths(store, [write(tmp_path / "a.jsonl", record("SG-1 leaks"))])
    ingest_paths(store, [write(tmp_path / "b.jsonl", record("SG-1 leaks"), record("SG-2 leaks"))])
    profile = _profile(tmp_path, 2)
    found = due(None, tmp_path / "home", profile=profile)
    assert {name: verdict.due for name, verdict in found.items()} == {"a": False, "b": True}
    assert due("b", tmp_path / "home", profile=profile) == {"b": found["b"]}


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path, store: AuditStore) -> None:
    with pytest.raises(UsageError, match="none does not exist"):
        ingest_paths(store, [tmp_path / "none"])


def test_the_table_shows_figures_and_conflicts(tmp_path: Path, store: AuditStore) -> None:
    ingest_paths(store, [write(tmp_path / "a.jsonl", record("SG-1 [leaks]"))])
    again = write(tmp_path / "b.jsonl", record("SG-1 [leaks]", "query_status"))
    labels = tmp_path / "labels.toml"
    labels.write_text(label_set_toml(LABELS))
    report = ingest_paths(store, [again], dataset="a", labels=labels)
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(ingest_table(report))
    text = console.export_text()
    assert "conflicts" in text
    assert "SG-1 [leaks]" in text


def table_of(key: str) -> list[dict]:
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts()
    newest = max((item for item in artifacts if item.key == key), key=lambda item: str(item.created))
    assert isinstance(newest.data, str)
    return json.loads(newest.data)


def test_the_flow_stores_shows_what_it_did_and_says_when_retraining_is_due(
    tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[dict[str, Any]] = []
    monkeypatch.setattr("flows.ingest.emit_event", lambda **event: events.append(event))
    file = write(tmp_path / "a.jsonl", record("SG-1 leaks"), record("SG-2 leaks"))
    assert ingest([file], home=tmp_path / "home", profile=_profile(tmp_path, 3)).new == 2
    assert events == []
    assert ingest([file], home=tmp_path / "home", profile=_profile(tmp_path, 2)).new == 0
    assert [(event["event"], event["payload"]["dataset"]) for event in events] == [(RETRAINING_DUE, "a")]
    assert table_of("ingested")[0]["known"] == 2
    found = due("a", tmp_path / "home", profile=_profile(tmp_path, 2))["a"]
    assert (found.due, found.new_rows) == (True, 2)


def test_the_flow_shows_refused_lines_and_stores_nothing(tmp_path: Path, prefect_server: str) -> None:
    file = write(tmp_path / "a.jsonl", record("SG-1 leaks"))
    file.write_text(file.read_text() + "not json\n")
    with pytest.raises(LinesRefused):
        ingest([file], home=tmp_path / "home")
    assert table_of("refused-lines")[0]["line"] == 2
    with pytest.raises(UsageError, match="is empty"):
        due(None, tmp_path / "home")
