"""The ``gemmill`` command: every subcommand is one flow or one pure call.

Exit codes: 0 done, 1 a fault of gemmill, 2 bad usage or configuration, 3 a gate blocked the candidate or the
verification a file, 4 data refused, 5 a service is out of reach.
"""

import json
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import models as model_commands
from flows.cli.options import (
    MODEL_NAME,
    AliasOption,
    DatasetOption,
    HomeOption,
    JsonOption,
    LabelsOption,
    ModelNameOption,
    RetrainingProfileOption,
    SummaryOption,
    VersionArgument,
    locate_home,
    located_home,
    require_all_writable,
    require_prefect,
)
from registry.errors import GemmillError

app = typer.Typer(
    help="Turns manufacturing audit data into a small Gemma 3 model that answers audit commands with strict JSON.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(model_commands.app)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gemmill {metadata.version('gemmill')}")
        raise typer.Exit


@app.callback()
def _prepare(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what the libraries say.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version and end.")
    ] = False,
) -> None:
    from flows.cli.console import set_up_logging

    set_up_logging(verbose=verbose)
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO" if verbose else "CRITICAL")


@app.command(rich_help_panel="Data")
def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Audit files (.jsonl) or folders of them.")],
    dataset: DatasetOption = None,
    labels: LabelsOption = None,
    profile: RetrainingProfileOption = "tiny",
    home: HomeOption = None,
    summary: SummaryOption = None,
) -> None:
    """Put audit records into the audit store; refuse files with bad lines as a whole."""
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
    dataset: DatasetOption = None,
    profile: RetrainingProfileOption = "tiny",
    home: HomeOption = None,
    summary: SummaryOption = None,
) -> None:
    """Say whether enough new rows have landed since the last training."""
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


@app.command(rich_help_panel="Training")
def retrain(
    profile: Annotated[str, typer.Option(help="A shipped profile's name, or the path of a TOML file.")] = "tiny",
    data: Annotated[
        Path | None, typer.Option(help="Audit files to ingest first; else the shipped synthetic sample.")
    ] = None,
    labels: LabelsOption = None,
    dataset: DatasetOption = None,
    texts: Annotated[
        list[Path] | None, typer.Option(help="Unlabelled texts, if the profile reads them; may be repeated.")
    ] = None,
    home: HomeOption = None,
    summary: SummaryOption = None,
) -> None:
    """Run the main job: train, export, measure, judge and register a candidate."""
    from flows.settings import load_profile

    settings = load_profile(profile)  # a mistake is told before Prefect starts
    settings.require_texts(texts)
    settings.require_packages()
    place = locate_home(home)
    require_prefect()
    from flows import retrain as flow
    from flows.cli.console import print_retrain
    from flows.summary import CandidateBlocked

    try:
        result = flow.retrain(
            profile=profile, data=data, labels=labels, dataset=dataset, texts=texts, home=place, summary=summary
        )
    except CandidateBlocked as blocked:
        print_retrain(blocked.summary, home)
        raise
    print_retrain(result, home)


@app.command(rich_help_panel="Versions and devices")
def versions(
    model_name: ModelNameOption = MODEL_NAME,
    home: HomeOption = None,
    json_path: JsonOption = None,
) -> None:
    """List the versions of the registered model: aliases, verdict, figures, data."""
    require_all_writable(json_path)
    from flows.cli.console import console, version_table
    from registry import models
    from registry.files import write_text

    models.connect(locate_home(home))
    found = models.versions(model_name)
    if json_path:
        write_text(json_path, json.dumps([version.model_dump() for version in found], indent=2) + "\n")
    console.print(version_table(model_name, found))


@app.command(rich_help_panel="Versions and devices")
def promote(
    version: VersionArgument,
    model_name: ModelNameOption = MODEL_NAME,
    home: HomeOption = None,
    summary: SummaryOption = None,
) -> None:
    """Make a version the champion; refuse one whose gates failed."""
    from registry import models

    models.connect(locate_home(home))
    _report_version(models.promote(model_name, version), summary)


@app.command(rich_help_panel="Versions and devices")
def rollback(
    model_name: ModelNameOption = MODEL_NAME,
    home: HomeOption = None,
    summary: SummaryOption = None,
) -> None:
    """Bring the previous champion back, in one step."""
    from registry import models

    models.connect(locate_home(home))
    _report_version(models.rollback(model_name), summary)


@app.command(rich_help_panel="Versions and devices")
def deploy(
    alias: AliasOption = "champion",
    device: Annotated[list[str] | None, typer.Option(help="Ollama to deploy to; else OLLAMA_HOST.")] = None,
    model_name: ModelNameOption = MODEL_NAME,
    home: HomeOption = None,
    summary: SummaryOption = None,
) -> None:
    """Put a version on devices that run Ollama, and ask each its golden prompts."""
    place = locate_home(home)
    require_prefect()
    from flows import deploy as flow
    from flows.cli.console import console, device_table
    from registry.files import write_text

    def tell(report: flow.DeployReport) -> None:
        if summary:
            write_text(summary, report.model_dump_json(indent=2) + "\n")
        console.print(device_table(report))

    try:
        tell(flow.deploy(model_name, alias, device, place))
    except flow.DevicesFailed as failed:
        tell(failed.report)
        raise


def _report_version(version: Any, summary: Path | None) -> None:
    from flows.cli.console import console
    from registry.files import write_text

    if summary:
        write_text(summary, version.model_dump_json(indent=2) + "\n")
    console.print(f"{version.name} version {version.version} is {', '.join(version.aliases)}.")


def main() -> None:
    """Run the command; an expected error is one sentence and its exit code, any other one a sentence and a log file."""
    try:
        app()
    except Exception as error:
        sys.exit(_told(error))


def _told(error: Exception) -> int:
    """Print what went wrong and return the exit code."""
    from data_checks.refusals import LinesRefused, problem_table
    from flows.cli.console import errors, print_error
    from flows.cli.faults import as_expected, write_log

    expected = as_expected(error)
    if isinstance(expected, LinesRefused):
        errors.print(problem_table(expected.problems))
    if expected:
        print_error(expected)
        return expected.exit_code
    try:
        log = f"the traceback is in {write_log(error, located_home())}"
    except GemmillError as unwritable:
        log = f"its traceback is lost, since {unwritable}".rstrip(".")
    said = str(error).strip().partition("\n")[0].rstrip(".")
    print_error(
        f"gemmill met a fault of its own, {type(error).__name__}: {said}. Nothing that was stored is lost; {log}."
    )
    return GemmillError.exit_code


if __name__ == "__main__":
    main()
