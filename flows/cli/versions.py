"""The commands of registered versions and of the devices that run them."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.options import (
    MODEL_NAME,
    AliasOption,
    HomeOption,
    JsonOption,
    ModelNameOption,
    SummaryOption,
    VersionArgument,
    locate_home,
    require_all_writable,
    require_prefect,
)

app = typer.Typer()


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
    require_all_writable(summary)
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
    require_all_writable(summary)
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
    require_all_writable(summary)
    place = locate_home(home)
    require_prefect()
    from flows import deploy as flow
    from flows.cli.console import console, device_table, print_error
    from registry.errors import GemmillError
    from registry.files import write_text

    def tell(report: flow.DeployReport) -> None:
        console.print(device_table(report))
        if summary:
            write_text(summary, report.model_dump_json(indent=2) + "\n")

    try:
        tell(flow.deploy(model_name, alias, [flow.SecretUrl(url) for url in device or ()], place))
    except flow.DevicesFailed as failed:
        try:
            tell(failed.report)
        except (GemmillError, OSError) as unwritten:
            print_error(unwritten)  # what the devices said comes last, and sets the exit code
        raise


def _report_version(version: Any, summary: Path | None) -> None:
    from flows.cli.console import console
    from registry.files import write_text

    if summary:
        write_text(summary, version.model_dump_json(indent=2) + "\n")
    console.print(f"{version.name} version {version.version} is {', '.join(version.aliases)}.", markup=False)
