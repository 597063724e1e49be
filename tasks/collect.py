"""Collect: the data of a retrain, frozen and held against its expectations."""

import hashlib
import json
import logging
from pathlib import Path

from prefect import task

from data_checks.expectations import CheckReport, check_snapshot
from data_checks.texts import read_texts
from registry.artifacts import Artifact
from registry.files import write_text
from registry.models import stage_run
from registry.store.datasets import AuditStore
from registry.store.snapshots import Snapshot
from registry.store.snapshots import take_snapshot as freeze
from tasks.steps import StepContext, step

logger = logging.getLogger(__name__)


@task
def take_snapshot(database_url: str, dataset: str, folder: Path) -> Snapshot:
    """The rows of ``dataset`` as they are now; golden commands that are no test row are told.

    Raises DataRefused where there are no rows.
    """
    with AuditStore(database_url) as store:
        snapshot = freeze(store, dataset, folder)
    asked = {record.command.strip() for record in snapshot.records("test")}
    for command in snapshot.label_set.golden:
        if command.strip() not in asked:
            logger.warning("golden command %r is not in the test split of %s; it is left out", command, dataset)
    return snapshot


@task
def take_texts(paths: list[Path], folder: Path) -> Artifact:
    """The distinct texts of ``paths`` as one file under its digest. Raises LinesRefused for lines without a text."""
    content = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in read_texts(paths))
    path = folder / f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.jsonl"
    write_text(path, content)
    return Artifact.of("texts", path)


@step
def check_data(step: StepContext, snapshot: Snapshot) -> CheckReport:
    """Great Expectations' verdict, its Data Docs logged as artifacts. Raises DataRefused where an expectation fails."""
    with stage_run(step.run_id, "data_checks") as log:
        docs = step.folder / "data_docs"
        step.folder.mkdir(parents=True, exist_ok=True)
        try:
            report = check_snapshot(snapshot.path, docs)
        finally:
            if docs.exists():
                log.log_artifact(docs, "data_docs")
        log.log_metrics({"expectations": len(report.expectations), "rows": sum(snapshot.rows.values())})
    return report
