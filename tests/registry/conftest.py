"""A real MLflow store: SQLite and files in a temporary folder, set up once."""

import uuid
from pathlib import Path

import pytest

from registry import models


@pytest.fixture(scope="session")
def registry_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("registry")
    models.connect(home)
    return home


@pytest.fixture
def home(registry_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    models.connect(registry_home)
    return registry_home


@pytest.fixture
def name(home: Path) -> str:
    return f"model-{uuid.uuid4().hex[:8]}"
