"""The connection to MLflow: a SQLite store below the home folder, or a tracking server.

The connection belongs to the process, as MLflow's own tracking URI does: the steps of a flow name runs by id.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from registry.errors import ServiceUnavailable, UsageError
from registry.files import require_writable
from registry.home import Home
from registry.store.databases import require_database
from registry.tracking.relocation import follow_moved_home
from registry.urls import sqlite_url

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

EXPERIMENT = "gemmill"
_PROBE_SECONDS = 5.0
_QUIET = ("alembic", "mlflow.store.db.utils", "mlflow.tracing")
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # 14 s of patience where MLflow's default is 4 minutes
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass(frozen=True, kw_only=True)
class Connection:
    """An open MLflow store and the experiment that holds every run."""

    client: "MlflowClient"
    experiment_id: str
    uri: str


_connection: Connection | None = None


def connect(home: Path, tracking_uri: str | None = None) -> str:
    """Open the store that this process uses from now on and return its URI.

    ``tracking_uri``, else MLFLOW_TRACKING_URI, names a server or database; without either the store is
    ``home/mlflow.db``, artifacts in ``home/mlartifacts``, also after the home was moved. Raises ServiceUnavailable if
    no server answers.
    """
    global _connection
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    located = Home(path=home.resolve())
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_url(located.mlflow_database)
    is_server = uri.startswith(("http://", "https://"))
    if is_server:
        _require_answer(uri)
    else:
        require_writable(located.mlflow_database)
        if not uri.startswith("sqlite"):
            require_database(uri, "mlflow")  # MLflow itself would try for half an hour, in silence
    # A server keeps artifacts where its operator said; a database alone would put them in the current folder.
    artifacts = None if is_server else located.mlflow_artifacts.as_uri()

    from mlflow import MlflowClient

    with store_errors(uri):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        experiment = _experiment(client, artifacts)
        if uri == sqlite_url(located.mlflow_database):
            follow_moved_home(located.mlflow_database, located.mlflow_artifacts, experiment.artifact_location)
        _connection = Connection(client=client, experiment_id=experiment.experiment_id, uri=uri)
    return uri


def connection() -> Connection:
    """The store of this process. Raises UsageError before :func:`connect`."""
    if _connection is None:
        raise UsageError("MLflow is not connected in this process; call registry.models.connect first.")
    return _connection


@contextmanager
def store_errors(uri: str | None = None) -> Iterator[None]:
    """Turn what MLflow raises into a ServiceUnavailable or a UsageError of one sentence; also a decorator."""
    where = uri or connection().uri

    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    try:
        yield
    except RequestException as error:
        raise ServiceUnavailable(f"MLflow at {where} is out of reach: {_first_line(error)}.") from error
    except MlflowException as error:
        if "disk is full" in str(error):
            raise UsageError(f"The disk of MLflow at {where} is full; make room and run this again.") from error
        kind = ServiceUnavailable if error.get_http_status_code() >= 500 else UsageError
        raise kind(f"MLflow at {where}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def _require_answer(uri: str) -> None:
    try:
        answer = httpx.get(f"{uri.rstrip('/')}/health", timeout=_PROBE_SECONDS)
        answer.raise_for_status()
    except httpx.HTTPStatusError as error:
        if error.response.is_server_error:
            raise ServiceUnavailable(f"MLflow at {uri} answers {error.response.status_code}; see its log.") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServiceUnavailable(
            f"No MLflow server answers at {uri} ({_first_line(error)}); start it, or unset "
            "MLFLOW_TRACKING_URI to use the local store."
        ) from error


def _experiment(client: "MlflowClient", artifacts: str | None) -> "Experiment":
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found:
        return found
    try:
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return client.get_experiment(client.create_experiment(EXPERIMENT, artifact_location=artifacts, tags=tags))
    except MlflowException as error:
        other = client.get_experiment_by_name(EXPERIMENT)  # another process was faster
        if other is None:
            raise error
        return other
