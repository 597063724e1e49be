"""The version behind an alias -> devices."""

import logging
from collections.abc import Sequence
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_table_artifact
from pydantic import BaseModel, ConfigDict, SecretStr

from deployment.devices.ollama import DeviceReport, FileRewritten, deploy_package
from deployment.packages.package import Package, verify_package
from registry import models
from registry.errors import GateBlocked, GemmillError
from registry.home import Home
from registry.urls import masked
from tasks.gguf.container import GgufFile
from tasks.gguf.order import is_in_order

logger = logging.getLogger(__name__)


class SecretUrl(SecretStr):
    """An address that is shown, and stored by Prefect, without its password."""

    def _display(self) -> str:
        return masked(self.get_secret_value())


class DeviceFailure(BaseModel):
    """A device on which the deploy failed, and why; the reason says where it was switched over all the same."""

    model_config = ConfigDict(frozen=True)

    device: str
    reason: str


class DeployReport(BaseModel):
    """The stable schema of ``gemmill deploy --summary``."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    model_name: str
    model_version: int
    alias: str
    gguf_sha256: str
    devices: list[DeviceReport]
    failures: list[DeviceFailure]


class DevicesFailed(GemmillError):
    """The deploy to devices failed; ``report`` tells which, ``exit_code`` is the first failure's."""

    def __init__(self, report: DeployReport, first: GemmillError) -> None:
        total = len(report.devices) + len(report.failures)
        reasons = " ".join(failure.reason for failure in report.failures)
        super().__init__(reasons if total == 1 else f"{len(report.failures)} of {total} devices failed. {reasons}")
        self.report = report
        self.exit_code = first.exit_code


@flow(name="deploy")
def deploy(
    model_name: str = "gemma3-manufacturing",
    alias: str = models.CHAMPION,
    devices: list[SecretUrl] | None = None,
    home: Path | None = None,
) -> DeployReport:
    """Put the version behind ``alias`` on every device, as :func:`deploy_version` does.

    Prefect stores what a flow is called with, so that an address comes here as a secret.
    """
    try:
        report = deploy_version(model_name, alias, [device.get_secret_value() for device in devices or ()], home)
    except DevicesFailed as failed:
        _table(failed.report)
        raise
    _table(report)
    return report


def deploy_version(model_name: str, alias: str, devices: Sequence[str] = (), home: Path | None = None) -> DeployReport:
    """Fetch the version behind an alias (or a number), verify it, and switch every device over to it.

    Without ``devices``, the Ollama of OLLAMA_HOST, else of this machine. A device that fails does not stop
    the others. Raises GateBlocked for a version whose gates did not pass, whoever moved the alias there, and
    DevicesFailed, after all were tried, where one failed.
    """
    located = Home.locate(home).made()
    models.connect(located.path)
    models.note_promotion_by_hand(model_name)
    version = models.resolve(model_name, alias)
    if not version.passed:
        raise GateBlocked(
            f"{model_name} version {version.version} did not pass its gates and is not deployed; promote one that did."
        )
    package = verify_package(models.download(version, located.package(version.name, version.version)))
    return _to_devices(package, version, alias, devices, located.device_locks)


def _to_devices(
    package: Package, version: models.RegisteredVersion, alias: str, devices: Sequence[str], locks: Path
) -> DeployReport:
    done: list[DeviceReport] = []
    failures: list[DeviceFailure] = []
    first: GemmillError | None = None
    for host in devices or [None]:
        try:
            done.append(_to_device(package, version, host, locks))
            logger.info("%s answers with version %d", done[-1].device, version.version)
        except GemmillError as error:
            first = first or error
            failures.append(DeviceFailure(device=masked(host or "default"), reason=str(error)))
    report = DeployReport(
        model_name=version.name,
        model_version=version.version,
        alias=alias,
        gguf_sha256=package.gguf_sha256,
        devices=done,
        failures=failures,
    )
    if first is not None:
        raise DevicesFailed(report, first) from first
    return report


def _to_device(package: Package, version: models.RegisteredVersion, host: str | None, locks: Path) -> DeviceReport:
    try:
        return deploy_package(package, name=version.name, locks=locks, host=host)
    except FileRewritten as error:
        with GgufFile(package.gguf) as file:
            if is_in_order(file):
                raise
        raise FileRewritten(
            f"{error} Its Ollama rewrites what it is given into llama.cpp's order, and version {version.version} was "
            "made by a gemmill that wrote another; run gemmill retrain and promote the version that it registers."
        ) from error


def _table(report: DeployReport) -> None:
    rows = [device.model_dump(mode="json") for device in report.devices]
    rows += [failure.model_dump(mode="json") for failure in report.failures]
    create_table_artifact(
        key="deployed-devices",
        table=rows,
        description=f"{report.model_name} version {report.model_version} ({report.alias})",
    )
