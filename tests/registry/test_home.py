"""Where state lives."""

from pathlib import Path

import pytest

from registry.home import Home


def test_a_home_is_the_option_else_the_environment_else_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Home.locate(tmp_path / "x").path == tmp_path / "x"
    monkeypatch.setenv("GEMMILL_HOME", str(tmp_path / "env"))
    assert Home.locate(None).path == tmp_path / "env"
    monkeypatch.delenv("GEMMILL_HOME")
    home = Home.locate(None)
    assert home.path == tmp_path / ".gemmill"
    assert home.database_url == f"sqlite:///{tmp_path}/.gemmill/audit.db"
    assert {home.snapshots, home.bases, home.steps} == {home.path / name for name in ("snapshots", "bases", "steps")}
    monkeypatch.setenv("GEMMILL_DATABASE_URL", "postgresql://plant")
    assert home.database_url == "postgresql://plant"
