"""Options that several commands of ``gemmill`` share, and what they lead to."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployment.runtimes.decoding import Mode

if TYPE_CHECKING:
    from registry.home import Home


def _require(kind: str) -> Callable[[str | None], str | None]:
    """A callback that refuses what can be no ``kind`` before anything is loaded or started."""

    def check(value: str | None) -> str | None:
        from registry.names import require_alias, require_name

        if value is not None:
            require_alias(value) if kind == "alias" else require_name(value, kind)
        return value

    return check


_PROBE_SECONDS = 5.0
MODEL_NAME = "gemma3-manufacturing"  # of the shipped profiles

HomeOption = Annotated[Path | None, typer.Option(help="Where state lives; else GEMMILL_HOME, else .gemmill.")]
SummaryOption = Annotated[Path | None, typer.Option(help="Write the result as JSON to this file.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the report as JSON to this file.")]
HtmlOption = Annotated[Path | None, typer.Option("--html", help="Write the report as a page to this file.")]
LabelsOption = Annotated[Path | None, typer.Option(help="Label set (TOML); else labels.toml beside the data.")]
DataOption = Annotated[Path, typer.Option("--data", help="Labelled records: .jsonl, or a folder with test.jsonl.")]
InstructionOption = Annotated[str, typer.Option(help="Text before each command; a package brings its own.")]
RetrainingProfileOption = Annotated[str, typer.Option(help="Profile that says how many new rows make retraining due.")]
ModelNameOption = Annotated[str, typer.Option(help="Registered model.", callback=_require("model name"))]
AliasOption = Annotated[str, typer.Option(help="Alias or number of the version.", callback=_require("alias"))]
VersionArgument = Annotated[int, typer.Argument(min=1, help="Version of the registered model.")]
DecodingOption = Annotated[
    Mode,
    typer.Option(
        help="free, as `ollama run` answers; schema, in the form of an answer; grounded, its values in the command too."
    ),
]
DecodingsOption = Annotated[
    list[Mode],
    typer.Option(
        help="free, as `ollama run` answers; schema, in the form of an answer; grounded, its values in the command "
        "too. Two of them give both side by side."
    ),
]
ContextOption = Annotated[
    int,
    typer.Option(min=2, help="Tokens of prompt and answer together; packages and servers have their own."),
]
ParallelOption = Annotated[
    int, typer.Option(min=1, help="Commands at a time; 1 measures the latency of a device that is asked one by one.")
]
NewTokensOption = Annotated[
    int | None, typer.Option("--max-new-tokens", min=1, help="Of a free answer; else as the package says, or 256.")
]
TemperatureOption = Annotated[
    float, typer.Option(min=0.0, max=2.0, help="0 takes the likeliest token always; above, answers are drawn.")
]
ConfidenceOption = Annotated[
    bool,
    typer.Option(
        "--confidence/--no-confidence", help="How sure grounded answers are, where the package knows; takes more time."
    ),
]
ThreadsOption = Annotated[int, typer.Option(min=0, help="Threads of llama.cpp; 0 takes every core.")]


def dataset_option(help: str) -> Any:
    """``--dataset``, which each command takes to mean something of its own."""
    return typer.Option(help=help, callback=_require("dataset"))


_located: "Home | None" = None


def locate_home(home: Path | None) -> Path:
    """The home; Prefect's own state goes there too, so that a run leaves nothing elsewhere."""
    from registry.files import require_writable
    from registry.home import Home

    global _located
    located = _located = Home.locate(home).made()
    if not (os.environ.get("PREFECT_API_URL") or os.environ.get("PREFECT_HOME")):
        require_writable(located.prefect / "prefect.db")  # makes the folder, which Prefect's server does not
        os.environ["PREFECT_HOME"] = str(located.prefect)
    return located.path


def located_home() -> "Home":
    """The home of the command that runs, also where it has not come to need one."""
    from registry.home import Home

    return _located or Home.locate(None)


def require_prefect() -> None:
    """Raise ServiceUnavailable at once where PREFECT_API_URL names a server that does not answer."""
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return
    import httpx

    from registry.errors import ServiceUnavailable

    try:
        answer = httpx.get(f"{url.rstrip('/')}/health", timeout=_PROBE_SECONDS)
        fault = f"it answers {answer.status_code}" if answer.is_server_error else None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        fault = str(error) or type(error).__name__
    if fault:
        raise ServiceUnavailable(
            f"No Prefect server answers at {url} ({fault}); start it, or unset PREFECT_API_URL to run without one."
        )


def require_all_writable(*paths: Path | None) -> None:
    from registry.files import require_writable

    for path in paths:
        if path:
            require_writable(path)
