"""The home: the folder that holds all state, and the one place that names what lies in it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from registry.errors import UsageError
from registry.files import require_writable
from registry.urls import sqlite_url


@dataclass(frozen=True, kw_only=True)
class Home:
    """Where state lives. Each folder below is made by what first writes there."""

    path: Path

    @classmethod
    def locate(cls, path: Path | None) -> "Home":
        """``--home``, else GEMMILL_HOME, else ``.gemmill`` in the working folder."""
        return cls(path=(path or Path(os.environ.get("GEMMILL_HOME") or ".gemmill")).absolute())

    def made(self) -> Self:
        """The home with its folder, made for its owner alone: audit texts lie in it. One that exists stays as it is.

        Raises UsageError where it cannot be made.
        """
        if not self.path.is_dir():
            require_writable(self.path)
            try:
                self.path.mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise UsageError(f"home {self.path} cannot be made: {error.strerror}; name another place.") from error
        return self

    @property
    def database_url(self) -> str:
        """The audit store: GEMMILL_DATABASE_URL, else a file of the home."""
        return os.environ.get("GEMMILL_DATABASE_URL") or sqlite_url(self.path / "audit.db")

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    @property
    def texts(self) -> Path:
        return self.path / "texts"

    @property
    def bases(self) -> Path:
        return self.path / "bases"

    @property
    def steps(self) -> Path:
        return self.path / "steps"

    @property
    def precision(self) -> Path:
        """What was measured of each processor that trained here."""
        return self.path / "precision"

    @property
    def mlflow_database(self) -> Path:
        """MLflow's store where no tracking server is named; its artifacts are in :attr:`mlflow_artifacts`."""
        return self.path / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.path / "mlartifacts"

    @property
    def feedback(self) -> Path:
        """Answers that people corrected on the gateway's page, a JSON object a line."""
        return self.path / "feedback.jsonl"

    @property
    def prefect(self) -> Path:
        """Prefect's own state where neither server nor PREFECT_HOME is named."""
        return self.path / "prefect"

    @property
    def device_locks(self) -> Path:
        """A file for each device that was deployed to, locked while a deploy is at work on it."""
        return self.path / "devices"

    def package(self, model_name: str, version: int) -> Path:
        """The fetched package of a registered version."""
        return self.path / "packages" / f"{model_name}-{version}"

    def summaries(self, run_id: str) -> Path:
        """Summary and resolved profile of a retrain."""
        return self.path / "summaries" / run_id
