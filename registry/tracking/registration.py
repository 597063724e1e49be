"""A package becomes a version: logged with its run as an MLflow model, without pickle, then registered."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from registry.artifacts import Artifact, verify_checksums
from registry.errors import UsageError
from registry.names import require_name
from registry.tracking.client import connection, store_errors
from registry.tracking.mlmodel import write_model_files
from registry.tracking.versions import (
    BLOCKED,
    GGUF_TAG,
    PACKAGE_FOLDER,
    PACKAGE_TAG,
    PASSED,
    VERDICT_TAG,
    RegisteredVersion,
    aliases_of,
    resolve,
)

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Metric, Run
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER = "challenger"
CHAMPION = "champion"
_MODEL_DESCRIPTION = (
    "Answers manufacturing audit commands with strict JSON on an edge device. `champion` is what the devices "
    "run, `challenger` has passed every gate and waits for a person, `previous_champion` is what "
    "`gemmill rollback` brings back."
)


@store_errors()
def register_version(
    run_id: str, package_dir: Path, *, model_name: str, verdict: bool, tags: Mapping[str, str], example: str
) -> RegisteredVersion:
    """Register a package made by ``run_id`` and give it the alias ``challenger`` if its gates passed.

    The run's parameters and metrics are shown with the version, with ``example`` as a command to ask it; the package's
    README.md is its description. A package that is registered already keeps its version and takes the new verdict.
    """
    package = Artifact.of("package", package_dir)
    files = verify_checksums(package_dir)
    gguf = [name for name in files if name.endswith(".gguf")]
    if len(gguf) != 1:
        raise UsageError(f"{package_dir} holds {len(gguf)} GGUF files; a package holds one.")
    _ensure_model(require_name(model_name, "model name"))
    digests = {PACKAGE_TAG: package.sha256, GGUF_TAG: files[gguf[0]]}
    version = _registered(model_name, package.sha256)
    if version is None:
        version = _create_version(run_id, package_dir, gguf[0], example, model_name, {**tags, **digests})
    _apply_verdict(version, verdict)
    return resolve(model_name, version.version)


def _ensure_model(name: str) -> None:
    client = connection().client
    if not client.search_registered_models(f"name = '{name}'", max_results=1):
        client.create_registered_model(name, description=_MODEL_DESCRIPTION)


def _registered(name: str, package_sha256: str) -> "ModelVersion | None":
    same = f"name = '{name}' and tag.{PACKAGE_TAG} = '{package_sha256}'"
    found = connection().client.search_model_versions(same, max_results=1)
    return found[0] if found else None


def _create_version(
    run_id: str, package_dir: Path, gguf: str, example: str, model_name: str, tags: dict[str, str]
) -> "ModelVersion":
    client = connection().client
    model = _log_model(run_id, package_dir, gguf, example, model_name, tags)
    card = package_dir / "README.md"
    with _global_tracking_uri():
        version = client.create_model_version(
            model_name,
            source=f"models:/{model.model_id}",
            run_id=run_id,
            model_id=model.model_id,
            tags=tags,
            description=card.read_text(encoding="utf-8") if card.is_file() else None,
        )
    # What MLflow's own log_model does last; the page of the logged model links to its version by this tag.
    link = [{"name": model_name, "version": version.version}]
    client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": json.dumps(link)})
    return version


@contextmanager
def _global_tracking_uri() -> Iterator[None]:
    """A database store looks up ``models:/ID`` in MLflow's global store; make that this one for now."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(connection().uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]  # None is "not set"
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def _log_model(
    run_id: str, package_dir: Path, gguf: str, example: str, name: str, tags: dict[str, str]
) -> "LoggedModel":
    """The package as an MLflow logged model: an MLmodel file and its like beside the folder ``package``."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    client = connection().client
    run = client.get_run(run_id)
    model = client.create_logged_model(
        run.info.experiment_id,
        name=name,
        source_run_id=run_id,
        tags=tags,
        params=run.data.params,
        model_type="gguf",
    )
    status = LoggedModelStatus.FAILED
    try:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        client.log_model_artifacts(model.model_id, str(package_dir), PACKAGE_FOLDER)
        with tempfile.TemporaryDirectory() as folder:
            write_model_files(Path(folder), model, run_id=run_id, gguf=gguf, example=example)
            client.log_model_artifacts(model.model_id, folder)
        client.log_batch(run_id, metrics=_model_metrics(run, model.model_id))
        status = LoggedModelStatus.READY
    finally:
        client.finalize_logged_model(model.model_id, status)
    return model


def _model_metrics(run: "Run", model_id: str) -> list["Metric"]:
    """The run's metrics again, as metrics of the model on the split that they were measured on."""
    from mlflow.entities import Metric

    now = int(datetime.now(UTC).timestamp() * 1000)
    datasets = run.inputs.dataset_inputs if run.inputs is not None else []
    tested = [item.dataset for item in datasets if any(tag.value == "testing" for tag in item.tags)]
    name, digest = (tested[0].name, tested[0].digest) if tested else (None, None)
    return [Metric(key, value, now, 0, model_id, name, digest) for key, value in run.data.metrics.items()]


def _apply_verdict(version: "ModelVersion", verdict: bool) -> None:
    client = connection().client
    name, number = version.name, str(version.version)
    client.set_model_version_tag(name, number, VERDICT_TAG, PASSED if verdict else BLOCKED)
    aliases = aliases_of(name)
    if verdict and aliases.get(CHAMPION) != number:
        client.set_registered_model_alias(name, CHALLENGER, number)
    elif not verdict and aliases.get(CHALLENGER) == number:
        client.delete_registered_model_alias(name, CHALLENGER)
