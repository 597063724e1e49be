"""Names with brackets and colons, which rich would take for its markup, are printed as they are."""

from pathlib import Path

import pytest
from command_line import Gemmill
from rich.console import RenderableType

from deployment.devices.ollama import DeviceReport
from flows.cli import console
from flows.deploy import DeployReport, DeviceFailure
from flows.ingest import ingest_table
from registry.artifacts import Artifact
from registry.models import RegisteredVersion
from registry.store.datasets import IngestReport
from tasks.evaluation.metrics import Metrics
from tasks.evaluation.report import metrics_table

_FOLDER = "/srv/plant [old]/:a:"
_DEVICE = "http://[fe80::a:1]:11434"


def _device_table() -> RenderableType:
    done = DeviceReport(
        device=_DEVICE, name="plant", ollama_version="0", gguf_sha256="ab" * 32, golden_passed=2, golden_total=2,
        tokens_per_second=None, seconds=1,
    )  # fmt: skip
    failures = [DeviceFailure(device=_DEVICE.replace("::a", "::b"), reason="none answers")]
    report = DeployReport(
        model_name="plant", model_version=1, alias="champion", gguf_sha256="ab" * 32, devices=[done], failures=failures
    )
    return console.device_table(report)


def _ingest_table() -> RenderableType:
    counts = {"read": 0, "new": 0, "known": 0, "joined": 0}
    return ingest_table(IngestReport(dataset="plant", source=_FOLDER, **counts, conflicts=[], rows={}))


def _version_table() -> RenderableType:
    version = RegisteredVersion(
        name="plant", version=1, run_id="r", aliases=("champion",), tags={"profile": _FOLDER}, metrics={}
    )
    return console.version_table("plant", [version])


@pytest.mark.parametrize(
    ("table", "shown"),
    [
        (_device_table, [_DEVICE, "http://[fe80::b:1]:11434"]),
        (lambda: console.artifact_table([Artifact(kind="gguf", path=Path(_FOLDER), sha256="", bytes=1)]), [_FOLDER]),
        (_ingest_table, [_FOLDER]),
        (_version_table, [_FOLDER]),
        (
            lambda: metrics_table({_FOLDER: Metrics.model_construct(**dict.fromkeys(Metrics.model_fields, None))}),
            [_FOLDER],
        ),
    ],
    ids=["devices", "artifacts", "ingested", "versions", "metrics"],
)
def test_a_table_keeps_every_character_of_a_name(table, shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    console.console.print(table())
    said = capsys.readouterr().out
    assert not [name for name in shown if name not in said], said


def test_a_written_file_is_told_with_its_whole_path(gemmill: Gemmill, tiny_model_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "a [old]" / "x.gguf"
    ran = gemmill("convert", tiny_model_dir, file, "--type", "q8_0", "--no-verify")
    assert ran.code == 0, ran
    assert "a [old]/x.gguf" in ran.out.replace("\n", "")
