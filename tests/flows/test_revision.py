"""Which revision a version is registered with."""

import subprocess
from pathlib import Path

import pytest

from flows import run


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=plant", "-c", "user.email=plant@localhost"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_revision_is_that_of_the_codes_own_checkout_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / ".venv" / "site-packages"
    for root in (tmp_path, installed):
        (root / "flows").mkdir(parents=True)
    _git(tmp_path, "init", "--quiet")
    _git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "one")
    monkeypatch.setattr(run, "__file__", str(tmp_path / "flows" / "run.py"))
    assert run.git_revision() == _git(tmp_path, "rev-parse", "HEAD")
    monkeypatch.setattr(run, "__file__", str(installed / "flows" / "run.py"))
    assert run.git_revision() == "unknown"
