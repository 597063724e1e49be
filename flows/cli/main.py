"""The ``gemmill`` command: every subcommand is one flow or one pure call.

Exit codes: 0 done, 1 a fault of gemmill, 2 bad usage or configuration, 3 a gate blocked the candidate or the
verification a file, 4 data refused, 5 a service is out of reach.
"""

import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from flows.cli import answers, data, models, serving, versions
from flows.cli.options import (
    HomeOption,
    LabelsOption,
    SummaryOption,
    dataset_option,
    locate_home,
    located_home,
    require_prefect,
)
from registry.errors import GemmillError

app = typer.Typer(
    help="Turns manufacturing audit data into a small Gemma 3 model that answers audit commands with strict JSON.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


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


@app.command(rich_help_panel="Training")
def retrain(
    profile: Annotated[str, typer.Option(help="A shipped profile's name, or the path of a TOML file.")] = "tiny",
    data: Annotated[
        Path | None, typer.Option(help="Audit files to ingest first; else the shipped synthetic sample.")
    ] = None,
    labels: LabelsOption = None,
    dataset: Annotated[
        str | None,
        dataset_option("Dataset to train on, to which --data is added; else as its label set or folder is called."),
    ] = None,
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
    from flows.cli.console import errors, print_retrain

    errors.print(f"Retraining with profile {settings.name} in {place}", highlight=False, markup=False)
    with errors.status("starting Prefect and MLflow"):
        from flows import retrain as flow
        from flows.summary import CandidateBlocked

    try:
        result = flow.retrain(
            profile=profile, data=data, labels=labels, dataset=dataset, texts=texts, home=place, summary=summary
        )
    except CandidateBlocked as blocked:
        print_retrain(blocked.summary, home)
        raise
    print_retrain(result, home)


for _commands in (data, versions, models, answers, serving):  # in the order of --help
    app.add_typer(_commands.app)


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
