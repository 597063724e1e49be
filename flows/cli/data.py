"""The commands of audit data."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import (
    HomeOption,
    LabelsOption,
    RetrainingProfileOption,
    SummaryOption,
    dataset_option,
    locate_home,
    require_all_writable,
    require_prefect,
)

app = typer.Typer()


@app.command(rich_help_panel="Data")
def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Audit files (.jsonl) or folders of them.")],
    dataset: Annotated[
        str | None, dataset_option("Dataset to add to; else as the label set, the folder or the file is called.")
    ] = None,
    labels: LabelsOption = None,
    profile: RetrainingProfileOption = "tiny",
    home: HomeOption = None,
    summary: SummaryOption = None,
) -> None:
    """Put audit records into the audit store; refuse files with bad lines as a whole."""
    require_all_writable(summary)
    place = locate_home(home)
    require_prefect()
    from flows import ingest as flow
    from flows.cli.console import console
    from registry.files import write_text

    report = flow.ingest(paths, dataset=dataset, labels=labels, home=place, profile=profile)
    if summary:
        write_text(summary, report.model_dump_json(indent=2) + "\n")
    console.print(flow.ingest_table(report))


@app.command(rich_help_panel="Data")
def due(
    dataset: Annotated[str | None, dataset_option("Dataset to look at; else each of the audit store.")] = None,
    profile: RetrainingProfileOption = "tiny",
    home: HomeOption = None,
    summary: Annotated[
        Path | None,
        typer.Option(help="Write the verdict as JSON to this file; those of several datasets by their names."),
    ] = None,
) -> None:
    """Say whether enough new rows have landed since the last training."""
    require_all_writable(summary)
    place = locate_home(home)
    from flows.cli.console import console
    from flows.ingest import due as is_due
    from registry.files import write_text

    found = is_due(dataset, place, profile)
    if summary:
        told = {name: verdict.model_dump() for name, verdict in found.items()}
        write_text(summary, json.dumps(told if len(told) > 1 else next(iter(told.values())), indent=2) + "\n")
    for name, verdict in found.items():
        since = f"since snapshot {verdict.since_snapshot}" if verdict.since_snapshot else "and none was trained on yet"
        console.print(
            f"Retraining on {name} is {'due' if verdict.due else 'not due'}: {verdict.new_rows:,} new rows {since}; "
            f"{verdict.minimum_rows:,} make it due."
        )
