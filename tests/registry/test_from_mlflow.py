"""A registered package is a model of MLflow's own: its pyfunc flavour loads, asks and serves it."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import httpx
import mlflow
import pandas
import pytest
from learnt_model import learnt_gguf, learnt_model_dir, plant_labels, plant_records
from small_package import CARD

import gemmill
from deployment.answers.rules import learn_rules
from deployment.answers.table import TableAssistant
from deployment.packages.licence import apache_licence
from deployment.packages.package import build_package
from deployment.prompts.prompt import Prompt
from registry import models
from registry.errors import UsageError
from registry.records import LabelSet, Record, answer_text
from registry.tracking.client import connection

__all__ = ["learnt_gguf", "learnt_model_dir", "plant_labels", "plant_records"]

NAME = "learnt"
COLUMNS = ["command", "intent", "entities", "confidence", "ask_person", "decoding", "failure"]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model so small is fastest so where other tests run beside it."""
    monkeypatch.setattr("deployment.answers.assistant.usable_cores", lambda: 1)


@pytest.fixture(scope="module")
def package(
    tmp_path_factory: pytest.TempPathFactory, learnt_gguf: Path, plant_labels: LabelSet, plant_records: list[Record]
) -> Path:
    out = tmp_path_factory.mktemp("packaged") / "package"
    build_package(
        out,
        name=NAME,
        gguf=learnt_gguf,
        labels=plant_labels,
        rules=learn_rules(plant_records, plant_labels),
        prompt=Prompt(),
        golden=[(record.command, answer_text(record.response, plant_labels)) for record in plant_records],
        card=CARD,
        licence=apache_licence(derived=False),
    )
    return out


@pytest.fixture(scope="module")
def champion(registry_home: Path, package: Path) -> str:
    """The address of a champion, for MLflow."""
    models.connect(registry_home)
    with models.retrain_run("learnt") as run:
        example = gemmill.load_package(package).golden[0].command
        models.register_version(run.run_id, package, model_name=NAME, verdict=True, tags={}, example=example)
    models.promote(NAME, 1)
    return f"models:/{NAME}@champion"


@pytest.fixture
def store(home: Path) -> Iterator[str]:
    """MLflow's own functions, pointed at the store."""
    mlflow.set_tracking_uri(connection().uri)
    yield connection().uri
    mlflow.set_tracking_uri(None)


def stored(home: Path, name: str) -> Path:
    model_id = connection().client.get_model_version(name, "1").source.removeprefix("models:/")
    return next((home / "mlartifacts").rglob(f"{model_id}/artifacts"))


def test_mlflow_answers_as_the_assistant_does(
    champion: str, store: str, package: Path, plant_records: list[Record]
) -> None:
    commands = [record.command for record in plant_records]
    with gemmill.AuditAssistant(package) as assistant:
        expected = assistant.answer_many(commands)
    loaded = mlflow.pyfunc.load_model(champion)
    found = loaded.predict(commands)
    assert list(found.columns) == COLUMNS
    rows = found.to_dict(orient="records")
    assert rows == [{name: answer.model_dump(mode="json")[name] for name in COLUMNS} for answer in expected]
    assert {row["decoding"] for row in rows} == {"grounded"}
    assert json.loads(json.dumps(rows)) == rows
    table = pandas.DataFrame({"command": commands, "shift": "early"}, index=list("abcd"))
    assert loaded.predict(table).equals(found.set_axis(table.index))
    assert loaded.predict(commands[0]).equals(loaded.predict({"command": commands[0]}))
    assert loaded.predict(loaded.input_example).equals(found[:1])


def test_a_command_without_an_answer_has_a_failure_and_no_intent(champion: str, store: str) -> None:
    [row] = mlflow.pyfunc.load_model(champion).predict(["check pump SG-9 " * 300]).to_dict(orient="records")
    assert (row["intent"], row["entities"]) == (None, {})
    assert "too long" in row["failure"]


def test_the_logged_model_shows_how_it_is_asked(
    champion: str, store: str, home: Path, plant_records: list[Record]
) -> None:
    info = mlflow.models.get_model_info(champion)
    assert [(column.name, str(column.type)) for column in info.signature.inputs] == [(None, "DataType.string")]
    assert info.signature.outputs.input_names() == COLUMNS
    folder = stored(home, NAME)
    example = json.loads((folder / "input_example.json").read_text())
    assert example == {"columns": ["command"], "data": [[plant_records[0].command]]}
    assert json.loads((folder / "serving_input_example.json").read_text()) == {"dataframe_split": example}


def test_the_logged_model_needs_gemmill_alone_and_no_pickle(champion: str, home: Path) -> None:
    models.connect(home)
    folder = stored(home, NAME)
    needed = f"gemmill=={metadata.version('gemmill')}"
    assert (folder / "requirements.txt").read_text() == f"{needed}\n"
    conda = (folder / "conda.yaml").read_text()
    assert conda.count("==") == 1 and needed in conda
    assert not [path for path in folder.rglob("*") if "pickle" in path.name or path.suffix in (".pkl", ".pickle")]
    assert "pickle" not in (folder / "MLmodel").read_text()
    mlmodel = mlflow.models.Model.load(folder / "MLmodel")
    assert mlmodel.flavors["python_function"]["loader_module"] == "gemmill"


def test_loading_leaves_the_package_in_the_store_as_it_was(
    champion: str, store: str, package: Path, tmp_path: Path
) -> None:
    mlflow.pyfunc.load_model(champion)
    fetched = models.download(models.resolve(NAME, "champion"), tmp_path / "fetched")
    assert sorted(path.name for path in fetched.iterdir()) == sorted(path.name for path in package.iterdir())


def test_a_package_with_a_file_that_changed_is_not_loaded(champion: str, store: str, tmp_path: Path) -> None:
    fetched = Path(mlflow.artifacts.download_artifacts(champion, dst_path=str(tmp_path)))
    (fetched / "package" / "answers.json").write_text("{}")
    with pytest.raises(UsageError, match=r"answers\.json has changed"):
        mlflow.pyfunc.load_model(str(fetched))


def test_a_version_from_before_the_flavour_is_still_fetched_and_kept(
    registry_home: Path, package: Path, tmp_path: Path, name: str
) -> None:
    def register() -> models.RegisteredVersion:
        with models.retrain_run("before") as run:
            return models.register_version(
                run.run_id, package, model_name=name, verdict=True, tags={}, example="Leak at SG-402"
            )

    version = register()
    for path in stored(registry_home, name).iterdir():
        if path.is_file():
            path.unlink()
    fetched = models.download(version, tmp_path / "fetched")
    with gemmill.AuditAssistant(f"models:/{name}/1", home=registry_home) as assistant:
        assert assistant.answer("Oil leak at SG-402.").intent == "report_leak"
    assert (fetched / "SHA256SUMS").is_file()
    assert register().version == version.version == 1


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (pandas.DataFrame({"text": ["a"]}), "has no column 'command' but text; name"),
        (pandas.DataFrame({"command": ["a", None]}), "Row 1 has nan where a command belongs"),
        ([1], "Row 0 has 1 where a command belongs"),
    ],
)
def test_a_table_without_commands_is_refused(asked: object, said: str, package: Path) -> None:
    table = TableAssistant(gemmill.AuditAssistant(package))
    with pytest.raises(UsageError, match=said):
        table.predict(asked)  # type: ignore[arg-type]


def test_the_process_of_a_model_ends_with_it(package: Path) -> None:
    assistant = gemmill.AuditAssistant(package)
    table = TableAssistant(assistant)
    child = assistant._runtime.process._child  # type: ignore[attr-defined]
    del table
    assert child.poll() is not None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.slow
def test_mlflow_serves_the_champion(champion: str, store: str, plant_records: list[Record]) -> None:
    port, record = _free_port(), plant_records[0]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store, "PYTHONPATH": str(Path(gemmill.__file__).parent)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # MLflow calls uvicorn by its name
    serve = ["mlflow", "models", "serve", "-m", champion, "--env-manager", "local", "--port", str(port)]
    server = subprocess.Popen([sys.executable, "-m", *serve], env=environment)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait(f"{address}/ping", server)
        for body in (
            {"inputs": [record.command]},
            {"instances": [record.command]},
            {"dataframe_records": [{"command": record.command}]},
            {"dataframe_split": {"columns": ["command"], "data": [[record.command]]}},
        ):
            answered = httpx.post(f"{address}/invocations", json=body, timeout=60, trust_env=False)
            assert answered.status_code == 200, answered.text
            [row] = answered.json()["predictions"]
            assert (row["command"], row["intent"]) == (record.command, record.response.intent)
            assert row["entities"] == record.response.entities
    finally:
        server.terminate()
        server.wait(30)


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert server.poll() is None, "mlflow models serve ended"
        try:
            if httpx.get(url, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise TimeoutError(url)
