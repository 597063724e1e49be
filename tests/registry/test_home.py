"""Where state lives."""

from pathlib import Path

import pytest

from registry import models
from registry.errors import UsageError
from registry.files import write_text
from registry.home import Home
from registry.store.datasets import AuditStore
from registry.tracking import client

RECORD = {"command": "SG-1 leaks", "response": {"intent": "report_issue", "entities": {}}}


def test_a_home_is_the_option_else_the_environment_else_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Home.locate(tmp_path / "x").path == tmp_path / "x"
    monkeypatch.setenv("GEMMILL_HOME", str(tmp_path / "env"))
    assert Home.locate(None).path == tmp_path / "env"
    monkeypatch.setenv("GEMMILL_HOME", "")
    assert Home.locate(None).path == tmp_path / ".gemmill"
    monkeypatch.delenv("GEMMILL_HOME")
    home = Home.locate(None)
    assert home.path == tmp_path / ".gemmill"
    assert home.database_url == f"sqlite:///{tmp_path}/.gemmill/audit.db"
    assert {home.snapshots, home.bases, home.steps} == {home.path / name for name in ("snapshots", "bases", "steps")}
    monkeypatch.setenv("GEMMILL_DATABASE_URL", "postgresql://plant")
    assert home.database_url == "postgresql://plant"


def test_a_home_is_made_for_its_owner_and_one_that_exists_stays_as_it_is(tmp_path: Path) -> None:
    made = Home(path=tmp_path / "plant" / "home").made()
    assert made.path.stat().st_mode & 0o777 == 0o700
    made.path.chmod(0o750)
    assert made.made().path.stat().st_mode & 0o777 == 0o750
    with AuditStore(made.database_url):
        pass
    write_text(made.texts / "t", "")
    assert (made.texts / "t").stat().st_mode & 0o007 == 0


def test_a_home_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be (made|written)"):
        Home(path=tmp_path / "file").made()


@pytest.mark.parametrize("name", ["a?b", "a b#c", "a%20b", "mühle;&", "q?uri=x#%"])
def test_any_name_of_a_home_is_its_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for home in (Home(path=tmp_path / name), Home.locate(Path(name) / "below")):
        with AuditStore(home.made().database_url) as store:
            store.ingest("plant", [("train", RECORD)], source="s", labels='name = "plant"\n')
        assert (home.path / "audit.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a?b %#", "a b"])
def test_mlflow_stays_in_a_home_of_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(client, "_connection", None)
    home = Home(path=tmp_path / name).made()
    models.connect(home.path)
    write_text(home.texts / "note", "kept")
    with models.retrain_run("run") as run:
        run.log_artifact(home.texts / "note", "notes")
    assert [path.read_text() for path in home.mlflow_artifacts.rglob("note")] == ["kept"]
    assert home.mlflow_database.is_file() and [path.name for path in tmp_path.iterdir()] == [name]
