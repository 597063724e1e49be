"""Audit files or a landing folder -> audit store."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.events import emit_event
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from data_checks.refusals import LinesRefused
from data_checks.sample import SAMPLE_DIR
from data_checks.sources import dataset_name, find_files, labels_beside, read_records, read_with_inferred_labels
from flows.settings import load_profile
from registry.errors import UsageError
from registry.home import Home
from registry.names import require_name
from registry.records import LabelSet, Record, Response, label_set_toml, load_label_set, parse_label_set
from registry.store.datasets import AuditStore, Due, IngestReport

RETRAINING_DUE = "gemmill.retraining.due"  # the event that starts the retrain deployment
_CONFLICTS_SHOWN = 20


@flow(name="ingest")
def ingest(
    paths: list[Path],
    dataset: str | None = None,
    labels: Path | None = None,
    home: Path | None = None,
    profile: str = "tiny",
) -> IngestReport:
    """Store the audit files of ``paths``; emit an event where so many landed that retraining is due.

    ``profile`` says how many that is.

    Raises DataRefused where a line is not sound, and stores nothing then.
    """
    with AuditStore(Home.locate(home).made().database_url) as store:
        try:
            report = ingest_paths(store, paths, dataset=dataset, labels=labels)
        except LinesRefused as refused:
            create_table_artifact(key="refused-lines", table=[problem.model_dump() for problem in refused.problems])
            raise
        create_table_artifact(key="ingested", table=[_summary_row(report)])
        found = store.due(report.dataset, load_profile(profile).retraining.minimum_rows)
    if found.due:
        emit_event(
            event=RETRAINING_DUE,
            resource={"prefect.resource.id": f"gemmill.dataset.{report.dataset}"},
            payload={"dataset": report.dataset, **found.model_dump()},
        )
    return report


def due(dataset: str | None = None, home: Path | None = None, profile: str = "tiny") -> dict[str, Due]:
    """Whether retraining is due, by dataset: on ``dataset``, without a name on each of the audit store.

    Raises UsageError where there is none.
    """
    minimum_rows = load_profile(profile).retraining.minimum_rows
    with AuditStore(Home.locate(home).made().database_url) as store:
        known = store.datasets()
        if not known:
            raise UsageError("the audit store is empty; ingest audit data first.")
        if dataset is not None and dataset not in known:
            raise UsageError(f"dataset {dataset!r} is not in the audit store; it holds {', '.join(known)}.")
        return {name: store.due(name, minimum_rows) for name in ([dataset] if dataset else known)}


def dataset_of(store: AuditStore, data: Path | None, *, labels: Path | None, dataset: str | None) -> str:
    """The dataset to train on, after ``data`` was ingested; without both the shipped sample."""
    if labels and not data:
        raise UsageError(f"the label set {labels} is for audit files; name them with --data too.")
    if dataset is not None and not data:
        return require_name(dataset, "dataset")
    return ingest_paths(store, [data or SAMPLE_DIR], dataset=dataset, labels=labels).dataset


def ingest_paths(
    store: AuditStore, paths: Sequence[Path], *, dataset: str | None = None, labels: Path | None = None
) -> IngestReport:
    """Store every record of ``paths``, or nothing where one of them is not sound.

    Args:
        dataset: by default the name of the label set, else of the folder or file.
        labels: a label set; by default the labels.toml beside the files, else the one that the dataset has,
        else the labels that the records use.
    """
    files = find_files(paths)
    given = load_label_set(labels) if labels else labels_beside(files)
    name = dataset_name(paths, given) if dataset is None else require_name(dataset, "dataset")
    stored = store.labels(name)
    label_set = given or (parse_label_set(stored, f"of dataset {name}") if stored else None)
    if label_set is None:
        records, label_set = read_with_inferred_labels(name, files)
    else:
        records = read_records(files, label_set)
        _require_stored_rows_fit(store, name, label_set)
    return store.ingest(
        name,
        ((item.split, _as_json(item.record)) for item in records),
        source=", ".join(str(path) for path in paths),
        labels=label_set_toml(label_set),
    )


def ingest_table(report: IngestReport) -> Table:
    """What an ingestion did, for the terminal: the figures, then every command with two answers."""
    table = Table(title=escape(f"{report.source} -> dataset {report.dataset}"), show_header=False)
    figures = {
        "read": report.read,
        "new": report.new,
        "known before": report.known,
        "conflicts": len(report.conflicts),
    }
    for name, count in {
        **figures,
        **{f"{split} rows now": rows for split, rows in report.rows.items()},
    }.items():
        table.add_row(name, f"{count:,}")
    for conflict in report.conflicts[:_CONFLICTS_SHOWN]:
        answers = f"stored as {conflict.stored}, not replaced by {conflict.offered}"
        table.add_row(Text(conflict.command), Text(answers))
    if len(report.conflicts) > _CONFLICTS_SHOWN:
        table.caption = f"and {len(report.conflicts) - _CONFLICTS_SHOWN} more conflicts"
    return table


def _require_stored_rows_fit(store: AuditStore, dataset: str, labels: LabelSet) -> None:
    """Raise UsageError where ``labels`` would not allow what the dataset already holds."""
    if store.labels(dataset) == label_set_toml(labels):
        return
    for row in store.rows(dataset):
        faults = labels.problems(Response.model_validate(row.response))
        if faults:
            raise UsageError(
                f"label set {labels.name!r} does not fit dataset {dataset!r}, which holds {row.command!r}: "
                f"{'; '.join(faults)}. Keep what is in use, or name another dataset with --dataset."
            )


def _as_json(record: Record) -> dict[str, Any]:
    return json.loads(record.model_dump_json(exclude_defaults=True))


def _summary_row(report: IngestReport) -> dict[str, Any]:
    """One line for Prefect's table."""
    return {
        **report.model_dump(exclude={"conflicts", "rows"}),
        "conflicts": len(report.conflicts),
        **report.rows,
    }
