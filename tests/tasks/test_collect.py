"""What the task tells beside the snapshot itself."""

import json
import logging
from pathlib import Path

import pytest

from registry.store.datasets import AuditStore
from tasks.collect import take_snapshot

LABELS = """name = "plant"
golden = ["SG-2 leaks", "SG-1 leaks", "SG-9 leaks"]

[intents]
report_issue = ""

[entities]
"""


def test_golden_commands_that_are_no_test_row_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    database = f"sqlite:///{tmp_path / 'audit.db'}"
    rows = [
        (split, {"command": command, "response": {"intent": "report_issue", "entities": {}}})
        for split, command in (("train", "SG-1 leaks"), ("test", "SG-2 leaks"))
    ]
    with AuditStore(database) as store:
        store.ingest("plant", rows, source="a file", labels=LABELS)
    with caplog.at_level(logging.WARNING, logger="tasks.collect"):
        snapshot = take_snapshot.fn(database, "plant", tmp_path / "snapshots")
    assert [json.loads(line)["command"] for line in snapshot.split("test").read_text().splitlines()] == ["SG-2 leaks"]
    assert [record.getMessage() for record in caplog.records] == [
        f"golden command {command!r} is not in the test split of plant; it is left out"
        for command in ("SG-1 leaks", "SG-9 leaks")
    ]
