"""A home that was copied or moved reads its own artifacts, writes to itself, and leaves the original alone."""

import logging
import shutil
from pathlib import Path

import pytest
from registered import register

from registry import models
from registry.artifacts import Artifact
from registry.home import Home
from registry.tracking import client
from registry.tracking.client import connection


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a registered version; MLflow takes seconds to make its tables."""
    folder = tmp_path_factory.mktemp("moved")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(client, "_connection", None)
        models.connect(folder / "home")
        register(folder / "packages", "plant", "one")
    return folder / "home"


@pytest.fixture
def original(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """That home under a name that is quoted in addresses."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(client, "_connection", None)
    home = Home(path=tmp_path / "plant 7%")
    shutil.copytree(template, home.path)
    models.connect(home.path)
    return home


def _addresses() -> list[str]:
    client = connection().client
    [run] = client.search_runs([connection().experiment_id])
    model = client.get_model_version("plant", "1")
    return [
        client.get_experiment(connection().experiment_id).artifact_location,
        run.info.artifact_uri,
        client.get_model_version_download_uri("plant", "1"),
        client.get_logged_model(model.source.removeprefix("models:/")).artifact_location,
    ]


def test_a_copy_reads_and_writes_its_own_artifacts(
    original: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = Artifact.of("artifacts", original.mlflow_artifacts)
    copy = Home(path=tmp_path / "copied" / "b?c")
    shutil.copytree(original.path, copy.path)
    with caplog.at_level(logging.INFO, "registry"):
        models.connect(copy.path)
    [told] = [record.getMessage() for record in caplog.records]
    assert str(original.path) in told
    assert all(address.startswith(copy.mlflow_artifacts.as_uri()) for address in _addresses()), _addresses()
    for file in original.mlflow_artifacts.rglob("*.gguf"):
        file.write_bytes(b"not this one")
    changed = Artifact.of("artifacts", original.mlflow_artifacts)
    package = models.download(models.resolve("plant", 1), tmp_path / "fetched")
    assert (package / "model-q8_0.gguf").read_bytes() == b"GGUFone"
    register(tmp_path / "packages", "plant", "two")
    assert Artifact.of("artifacts", original.mlflow_artifacts) == changed != before
    assert len(list(copy.mlflow_artifacts.rglob("*.gguf"))) == 2


def test_a_moved_home_serves_its_packages_and_a_second_look_changes_nothing(
    original: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = original.path.rename(tmp_path / "elsewhere")
    models.connect(moved)
    assert models.download(models.resolve("plant", 1), tmp_path / "fetched").is_dir()
    with caplog.at_level(logging.INFO, "registry"):
        models.connect(moved)
    assert not caplog.records
    assert not original.path.exists()


def test_the_same_home_by_another_path_and_a_place_that_somebody_chose_stay(
    original: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _addresses()
    (tmp_path / "link").symlink_to(original.path)
    models.connect(tmp_path / "link")
    assert _addresses() == before
    copy = Home(path=tmp_path / "copy")
    shutil.copytree(original.path, copy.path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{original.mlflow_database}")
    models.connect(copy.path)  # a database that was named is somebody else's
    assert _addresses() == before
