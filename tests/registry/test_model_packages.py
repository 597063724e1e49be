"""The package of a version comes back as it was registered, or not at all."""

from pathlib import Path

import pytest
from registered import register

from registry import models
from registry.artifacts import write_checksums
from registry.errors import UsageError
from registry.tracking.client import connection


def test_a_package_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    version = register(tmp_path, name, "one")
    path = models.download(version, tmp_path / "fetched")
    assert sorted(item.name for item in path.iterdir()) == ["README.md", "SHA256SUMS", "model-q8_0.gguf"]
    assert (path / "model-q8_0.gguf").read_bytes() == b"GGUFone"


def test_a_package_that_is_there_is_not_fetched_again(name: str, tmp_path: Path) -> None:
    version = register(tmp_path, name, "one")
    inode = (models.download(version, tmp_path / "fetched") / "README.md").stat().st_ino
    assert (models.download(version, tmp_path / "fetched") / "README.md").stat().st_ino == inode
    (tmp_path / "fetched" / "model-q8_0.gguf").write_bytes(b"GGUF changed")
    assert (models.download(version, tmp_path / "fetched") / "model-q8_0.gguf").read_bytes() == b"GGUFone"


def stored_package(home: Path, name: str) -> Path:
    model_id = connection().client.get_model_version(name, "1").source.removeprefix("models:/")
    return next((home / "mlartifacts").rglob(f"{model_id}/artifacts/package"))


def test_a_file_that_changed_in_the_store_is_refused(home: Path, name: str, tmp_path: Path) -> None:
    version = register(tmp_path, name, "one")
    (stored_package(home, name) / "model-q8_0.gguf").write_bytes(b"GGUF tampered")
    with pytest.raises(UsageError, match=r"model-q8_0.gguf has changed"):
        models.download(version, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()


def test_a_package_that_was_exchanged_whole_is_refused(home: Path, name: str, tmp_path: Path) -> None:
    version = register(tmp_path, name, "one")
    stored = stored_package(home, name)
    (stored / "model-q8_0.gguf").write_bytes(b"GGUF tampered")
    write_checksums(stored)
    with pytest.raises(UsageError, match="the registry's tag gguf_sha256 says"):
        models.download(version, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()
