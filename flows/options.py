"""Options that several commands of ``gemmill`` share, and what they lead to."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer


def _require(kind: str) -> Callable[[str | None], str | None]:
    """A callback that refuses what can be no ``kind`` before anything is loaded or started."""

    def check(value: str | None) -> str | None:
        from registry.names import require_alias, require_name

        if value is not None:
            require_alias(value) if kind == "alias" else require_name(value, kind)
        return value

    return check


MODEL_NAME = "gemma3-manufacturing"  # of the shipped profiles

HomeOption = Annotated[Path | None, typer.Option(help="Where state lives; else GEMMILL_HOME, else .gemmill.")]
SummaryOption = Annotated[Path | None, typer.Option(help="Write the result as JSON to this file.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the report as JSON to this file.")]
HtmlOption = Annotated[Path | None, typer.Option("--html", help="Write the report as a page to this file.")]
LabelsOption = Annotated[Path | None, typer.Option(help="Label set (TOML); else labels.toml beside the data.")]
DataOption = Annotated[Path, typer.Option("--data", help="Labelled records: .jsonl, or a folder with test.jsonl.")]
InstructionOption = Annotated[str, typer.Option(help="Text before each command; a package brings its own.")]
RetrainingProfileOption = Annotated[str, typer.Option(help="Profile that says how many new rows make retraining due.")]
DatasetOption = Annotated[
    str | None,
    typer.Option(
        help="Dataset; else as the audit files' label set is called; due: each of the audit store.",
        callback=_require("dataset"),
    ),
]
ModelNameOption = Annotated[str, typer.Option(help="Registered model.", callback=_require("model name"))]
AliasOption = Annotated[str, typer.Option(help="Alias or number of the version.", callback=_require("alias"))]
VersionArgument = Annotated[int, typer.Argument(min=1, help="Version of the registered model.")]
ThreadsOption = Annotated[int, typer.Option(min=0, help="Threads of llama.cpp; 0 takes every core.")]


def locate_home(home: Path | None) -> Path:
    """The home; Prefect's own state goes there too, so that a run leaves nothing elsewhere."""
    from registry.artifacts import require_writable
    from registry.home import Home

    located = Home.locate(home).made()
    if not {"PREFECT_API_URL", "PREFECT_HOME"} & os.environ.keys():
        require_writable(located.prefect / "prefect.db")  # makes the folder, which Prefect's server does not
        os.environ["PREFECT_HOME"] = str(located.prefect)
    return located.path


def require_all_writable(*paths: Path | None) -> None:
    from registry.artifacts import require_writable

    for path in paths:
        if path:
            require_writable(path)
