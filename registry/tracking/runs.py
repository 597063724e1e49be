"""MLflow runs: one for a retrain, one below it for each of its stages."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import GemmillError
from registry.tracking.client import connection, store_errors
from registry.urls import masked

if TYPE_CHECKING:
    from mlflow.entities import Metric

    from registry.store.snapshots import Snapshot

logger = logging.getLogger(__name__)

_PARENT_TAG = "mlflow.parentRunId"
_METRICS_PER_REQUEST = 500
_PARAMS_PER_REQUEST = 100  # MLflow's own limit
_SECONDS_BETWEEN_REQUESTS = 2.0
_ERROR_CHARACTERS = 500
_CONTEXTS = {"train": "training", "validation": "validation", "test": "testing"}


class RunLog:
    """Writes to one MLflow run; metrics travel in batches, so one a training step costs next to nothing."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._metrics: list[Metric] = []
        self._flushed_at = time.monotonic()

    @store_errors()
    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log settings; nested tables become dotted names, lists JSON."""
        from mlflow.entities import Param

        flat = [Param(name, value) for name, value in _flatten(params)]
        for start in range(0, len(flat), _PARAMS_PER_REQUEST):
            connection().client.log_batch(self.run_id, params=flat[start : start + _PARAMS_PER_REQUEST])

    def log_metric(self, name: str, value: float, step: int = 0) -> None:
        from mlflow.entities import Metric

        self._metrics.append(Metric(name, float(value), int(time.time() * 1000), step))
        waited = time.monotonic() - self._flushed_at
        if len(self._metrics) >= _METRICS_PER_REQUEST or waited >= _SECONDS_BETWEEN_REQUESTS:
            self.flush()

    def log_metrics(self, metrics: Mapping[str, float | None], step: int = 0) -> None:
        """Log several at once and send them; a value of None is undefined and left out."""
        for name, value in metrics.items():
            if value is not None:
                self.log_metric(name, value, step)
        self.flush()

    @store_errors()
    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file, or the files of a folder, below ``folder`` of the run's artifacts."""
        client = connection().client
        (client.log_artifacts if path.is_dir() else client.log_artifact)(self.run_id, str(path), folder)

    @store_errors()
    def set_tags(self, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            connection().client.set_tag(self.run_id, name, value)

    @store_errors()
    def flush(self) -> None:
        """Send the metrics that wait."""
        if self._metrics:
            connection().client.log_batch(self.run_id, metrics=self._metrics)
        self._metrics = []
        self._flushed_at = time.monotonic()


def _flatten(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value) if isinstance(value, list | tuple) else str(value)


@contextmanager
def retrain_run(
    name: str, *, params: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None
) -> Iterator[RunLog]:
    """The parent run of a retrain. It ends as FAILED, with the error in a tag, where the body raises."""
    with _run(name, dict(tags or {})) as log:
        log.log_params(params or {})
        yield log


@contextmanager
def stage_run(parent_run_id: str, stage: str) -> Iterator[RunLog]:
    """A run nested below the retrain's run."""
    with _run(stage, {_PARENT_TAG: parent_run_id, "stage": stage}) as log:
        yield log


@contextmanager
def _run(name: str, tags: dict[str, str]) -> Iterator[RunLog]:
    from mlflow.tracking.context.registry import resolve_tags

    client = connection().client
    with store_errors():
        run = client.create_run(connection().experiment_id, run_name=name, tags=resolve_tags(tags))
    log = RunLog(run.info.run_id)
    try:
        yield log
        log.flush()
    except BaseException as error:
        _end_failed(log, error)
        raise
    with store_errors():
        client.set_terminated(log.run_id, "FINISHED")


def _end_failed(log: RunLog, error: BaseException) -> None:
    client = connection().client
    try:
        with store_errors():
            log.flush()
            client.set_tag(log.run_id, "error", masked(f"{type(error).__name__}: {error}")[:_ERROR_CHARACTERS])
            client.set_terminated(log.run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
    except GemmillError as unreachable:
        logger.warning("run %s could not be closed: %s", log.run_id, unreachable)


@store_errors()
def log_snapshot(run_id: str, snapshot: "Snapshot") -> None:
    """Name the snapshot's splits as the run's inputs; each carries the snapshot's id as its digest."""
    import pandas
    from mlflow.data.pandas_dataset import from_pandas
    from mlflow.data.sources import LocalArtifactDatasetSource  # pyright: ignore[reportAttributeAccessIssue]
    from mlflow.entities import DatasetInput, InputTag

    inputs = []
    for split, context in _CONTEXTS.items():
        path = snapshot.split(split)
        rows = [json.loads(line) for line in path.read_bytes().splitlines()]
        frame = pandas.DataFrame(
            {
                "command": [row["command"] for row in rows],
                "intent": [row["response"]["intent"] for row in rows],
                "entities": [json.dumps(row["response"]["entities"], ensure_ascii=False) for row in rows],
            }
        )
        data = from_pandas(
            frame,
            LocalArtifactDatasetSource(path.resolve().as_uri()),
            name=f"{snapshot.dataset}.{split}",
            digest=snapshot.id,
        )
        inputs.append(DatasetInput(data._to_mlflow_entity(), tags=[InputTag("mlflow.data.context", context)]))
    connection().client.log_inputs(run_id, inputs)
