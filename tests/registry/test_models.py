"""The registry on a real MLflow store: SQLite and files in a temporary folder, set up once."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import httpx
import pytest

from registry import models
from registry.artifacts import write_checksums
from registry.errors import GateBlocked, ServiceUnavailable, UsageError
from registry.mlflow_store import connection
from registry.models import RegisteredVersion
from registry.snapshots import Snapshot


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


def make_package(folder: Path, content: str = "one") -> Path:
    folder.mkdir(parents=True)
    (folder / "model-q8_0.gguf").write_bytes(b"GGUF" + content.encode())
    (folder / "README.md").write_text(f"# The card of {content}\n")
    write_checksums(folder)
    return folder


def register(tmp_path: Path, name: str, content: str, verdict: bool = True) -> RegisteredVersion:
    with models.retrain_run(f"run {content}", params={"profile": "tiny"}) as run:
        run.log_metrics({"gguf.exact_match": 0.9, "gguf.oos_recall": None})
        return models.register_version(
            run.run_id,
            make_package(tmp_path / content, content),
            model_name=name,
            verdict=verdict,
            tags={"snapshot_sha256": "ab" * 32, "git_revision": "c0ffee"},
        )


def aliases(name: str) -> dict[str, int]:
    found = {alias: models.find(name, alias) for alias in ("challenger", "champion", "previous_champion")}
    return {alias: version.version for alias, version in found.items() if version}


# ------------------------------------------------------------------------------------------------ runs


def test_a_stage_is_a_run_nested_below_the_retrain(home: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>fine</p>")
    params = {"distill": {"temperature": 2.0, "layers": [1, 2]}}
    with models.retrain_run("tiny", params=params) as run, models.stage_run(run.run_id, "student") as stage:
        stage.log_params({"lr": 2e-4})
        for step in range(1200):
            stage.log_metric("loss", 1 / (step + 1), step)
        stage.log_artifact(tmp_path / "report.html", "reports")
        stage.log_artifact(tmp_path, "everything")
    client = connection().client
    parent, child = client.get_run(run.run_id), client.get_run(stage.run_id)
    assert parent.data.params == {"distill.temperature": "2.0", "distill.layers": "[1, 2]"}
    assert child.data.tags["mlflow.parentRunId"] == run.run_id
    assert child.data.params == {"lr": "0.0002"}
    assert len(client.get_metric_history(stage.run_id, "loss")) == 1200
    assert [item.path for item in client.list_artifacts(stage.run_id, "reports")] == ["reports/report.html"]
    assert [item.path for item in client.list_artifacts(stage.run_id, "everything")] == ["everything/report.html"]
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")


def test_more_settings_than_one_request_holds_are_all_logged(home: Path) -> None:
    with models.retrain_run("tiny", params={f"p{index}": index for index in range(250)}) as run:
        pass
    assert len(connection().client.get_run(run.run_id).data.params) == 250


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_that_ends_with_an_error_says_so_and_keeps_its_metrics(
    home: Path, error: type[BaseException], status: str
) -> None:
    with pytest.raises(error), models.retrain_run("tiny", tags={"profile": "tiny"}) as run:
        run.log_metric("loss", 1.0)
        raise error("the norm of layer 16")
    found = connection().client.get_run(run.run_id)
    assert found.info.status == status
    assert found.data.tags["error"] == f"{error.__name__}: the norm of layer 16"
    assert found.data.metrics == {"loss": 1.0}


def snapshot_in(folder: Path) -> Snapshot:
    folder.mkdir()
    line = {
        "command": "Leak at SG-402",
        "response": {"intent": "report_issue", "entities": {"a": ["x", "y"]}},
    }
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text(json.dumps(line) + "\n")
    rows = {"train": 1, "validation": 1, "test": 1}
    return Snapshot(id="0123456789ab", dataset="plant", path=folder, sha256="0123456789ab" + "0" * 52, rows=rows)


def test_the_snapshot_is_the_input_of_its_run(home: Path, tmp_path: Path, recwarn) -> None:
    with models.retrain_run("tiny") as run:
        models.log_snapshot(run.run_id, snapshot_in(tmp_path / "snapshot"))
    inputs = connection().client.get_run(run.run_id).inputs.dataset_inputs
    assert sorted((item.dataset.name, item.dataset.digest, item.tags[0].value) for item in inputs) == [
        ("plant.test", "0123456789ab", "testing"),
        ("plant.train", "0123456789ab", "training"),
        ("plant.validation", "0123456789ab", "validation"),
    ]
    assert not [str(warning.message) for warning in recwarn if "mlflow" in str(warning.filename)]


# -------------------------------------------------------------------------------------------- versions


def test_a_version_carries_its_card_its_metrics_and_its_digests(name: str, tmp_path: Path) -> None:
    version = register(tmp_path, name, "one")
    assert (version.name, version.version, version.aliases, version.passed) == (
        name,
        1,
        ("challenger",),
        True,
    )
    assert version.metrics == {"gguf.exact_match": 0.9}
    assert version.tags["gate_verdict"] == "passed"
    assert version.tags["git_revision"] == "c0ffee"
    assert len(version.tags["package_sha256"]) == len(version.tags["gguf_sha256"]) == 64
    stored = connection().client.get_model_version(name, "1")
    assert stored.description == "# The card of one\n"
    assert stored.run_id == version.run_id


def test_the_logged_model_has_a_signature_a_run_and_no_pickle(name: str, tmp_path: Path, home: Path) -> None:
    version = register(tmp_path, name, "one")
    client = connection().client
    model_id = client.get_model_version(name, "1").source.removeprefix("models:/")
    model = client.get_logged_model(model_id)
    assert model.source_run_id == version.run_id
    assert model.params == {"profile": "tiny"}
    assert json.loads(model.tags["mlflow.modelVersions"])[0]["name"] == name
    assert client.get_run(version.run_id).outputs.model_outputs[0].model_id == model_id
    described = client.list_logged_model_artifacts(model_id)
    assert sorted(item.path for item in described) == ["MLmodel", "package"]
    text = next((home / "mlartifacts").rglob(f"{model_id}/artifacts/MLmodel")).read_text()
    assert "intent" in text
    assert "gguf: package/model-q8_0.gguf" in text or "data: package/model-q8_0.gguf" in text
    assert "pickle" not in text


def test_metrics_of_a_version_name_the_test_split(name: str, tmp_path: Path) -> None:
    with models.retrain_run("tiny") as run:
        models.log_snapshot(run.run_id, snapshot_in(tmp_path / "snapshot"))
        run.log_metrics({"gguf.exact_match": 0.9})
        models.register_version(run.run_id, make_package(tmp_path / "p"), model_name=name, verdict=True, tags={})
    client = connection().client
    model_id = client.get_model_version(name, "1").source.removeprefix("models:/")
    (metric,) = client.get_logged_model(model_id).metrics
    assert (metric.dataset_name, metric.dataset_digest) == ("plant.test", "0123456789ab")


def test_a_blocked_version_is_registered_without_an_alias(name: str, tmp_path: Path) -> None:
    version = register(tmp_path, name, "one", verdict=False)
    assert (version.aliases, version.tags["gate_verdict"], version.passed) == ((), "blocked", False)


def test_the_same_package_keeps_its_version_and_takes_the_new_verdict(name: str, tmp_path: Path) -> None:
    first = register(tmp_path / "a", name, "same")
    again = register(tmp_path / "b", name, "same", verdict=False)
    assert again.version == first.version
    assert (again.passed, again.aliases) == (False, ())
    assert register(tmp_path / "c", name, "same").aliases == ("challenger",)


def test_a_champion_that_is_made_again_does_not_challenge_itself(name: str, tmp_path: Path) -> None:
    register(tmp_path / "a", name, "same")
    models.promote(name, 1)
    assert register(tmp_path / "b", name, "same").aliases == ("champion",)


def test_a_folder_that_is_no_package_is_not_registered(name: str, tmp_path: Path) -> None:
    package = make_package(tmp_path / "p")
    (package / "second.gguf").write_bytes(b"GGUF")
    write_checksums(package)
    with models.retrain_run("tiny") as run, pytest.raises(UsageError, match="holds 2 GGUF files"):
        models.register_version(run.run_id, package, model_name=name, verdict=True, tags={})
    (package / "second.gguf").write_bytes(b"GGUF changed")
    with models.retrain_run("tiny") as run, pytest.raises(UsageError, match=r"second.gguf has changed"):
        models.register_version(run.run_id, package, model_name=name, verdict=True, tags={})
    assert models.find(name, "challenger") is None


# ------------------------------------------------------------------------------------------- promotion


def test_promotion_moves_the_champion_and_keeps_the_one_before(name: str, tmp_path: Path) -> None:
    register(tmp_path, name, "one")
    register(tmp_path, name, "two")
    assert models.promote(name, 1).aliases == ("champion",)
    assert models.promote(name, "challenger").version == 2
    assert aliases(name) == {"champion": 2, "previous_champion": 1}
    assert models.resolve(name, 2).tags["champion_set_by"]


def test_a_blocked_version_is_never_promoted(name: str, tmp_path: Path) -> None:
    register(tmp_path, name, "one")
    models.promote(name, 1)
    register(tmp_path, name, "two", verdict=False)
    with pytest.raises(GateBlocked, match="version 2 has the gate_verdict 'blocked'"):
        models.promote(name, 2)
    assert aliases(name) == {"champion": 1}


def test_a_rollback_is_one_step_and_can_be_taken_back(name: str, tmp_path: Path) -> None:
    register(tmp_path, name, "one")
    register(tmp_path, name, "two")
    with pytest.raises(UsageError, match="no previous champion"):
        models.rollback(name)
    models.promote(name, 1)
    models.promote(name, 2)
    assert models.rollback(name).version == 1
    assert aliases(name) == {"champion": 1, "previous_champion": 2}
    assert models.rollback(name).version == 2


def test_promoting_the_champion_again_changes_nothing(name: str, tmp_path: Path) -> None:
    register(tmp_path, name, "one")
    models.promote(name, 1)
    models.promote(name, 1)
    assert aliases(name) == {"champion": 1}
    assert len(models.alias_history(name)) == 1


def test_a_promotion_by_hand_is_noted_and_can_be_rolled_back(name: str, tmp_path: Path) -> None:
    register(tmp_path, name, "one")
    register(tmp_path, name, "two")
    models.promote(name, 1)
    connection().client.set_registered_model_alias(name, "champion", "2")  # what the MLflow UI does
    models.note_promotion_by_hand(name)
    assert aliases(name)["previous_champion"] == 1
    assert models.rollback(name).version == 1
    moves = [(move["action"], move["version"], move["replaced"]) for move in models.alias_history(name)]
    assert moves == [("promote", 1, None), ("by hand", 2, 1), ("rollback", 1, 2)]


def test_a_champion_that_was_deleted_does_not_stand_in_the_way(name: str, tmp_path: Path) -> None:
    register(tmp_path, name, "one")
    register(tmp_path, name, "two")
    models.promote(name, 1)
    connection().client.delete_model_version(name, "1")
    assert models.promote(name, 2).aliases == ("champion",)


def test_the_history_is_bounded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_HISTORY_LENGTH", 3)
    register(tmp_path, name, "one")
    register(tmp_path, name, "two")
    models.promote(name, 1)
    models.promote(name, 2)
    for _ in range(3):
        models.rollback(name)
    assert [move["action"] for move in models.alias_history(name)] == ["rollback"] * 3


def test_what_does_not_exist_is_said_with_what_to_do(name: str, tmp_path: Path) -> None:
    assert models.find(name, "champion") is None
    assert models.alias_history(name) == []
    with pytest.raises(UsageError, match=r"no version with the alias 'champion'; gemmill promote"):
        models.resolve(name, "champion")
    with pytest.raises(UsageError, match="has no version 7"):
        models.resolve(name, 7)


# -------------------------------------------------------------------------------------------- download


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


# ------------------------------------------------------------------------------------------ connection


def test_a_server_out_of_reach_is_said_at_once(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"  # bound, but nobody listens
        with pytest.raises(ServiceUnavailable, match=f"No MLflow server answers at {uri}"):
            models.connect(home, uri)


def test_the_environment_names_the_server_and_is_left_as_it_was(
    home: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{home / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert models.connect(tmp_path / "unused") == uri
    register(tmp_path, name, "one")
    assert os.environ["MLFLOW_TRACKING_URI"] == uri


@pytest.mark.slow
def test_a_tracking_server_keeps_runs_versions_and_packages(home: Path, name: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--port", str(port), "--workers", "1"]
    options += ["--artifacts-destination", str(tmp_path / "on-the-server"), "--host", "127.0.0.1"]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *options],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health")
        models.connect(tmp_path / "unused", f"http://127.0.0.1:{port}")
        version = register(tmp_path, name, "one")
        assert version.metrics == {"gguf.exact_match": 0.9}
        assert models.promote(name, 1).aliases == ("champion",)
        assert (models.download(version, tmp_path / "fetched") / "model-q8_0.gguf").read_bytes() == b"GGUFone"
        assert list((tmp_path / "on-the-server").rglob("model-q8_0.gguf"))
        assert not (tmp_path / "unused").exists()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    with pytest.raises(ServiceUnavailable, match=r"^MLflow at http:"):
        models.find(name, "champion")


def _wait_for(url: str) -> None:
    for _ in range(240):
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise TimeoutError(url)


def test_a_process_that_has_not_connected_is_told_so() -> None:
    code = "from registry import models\nmodels.find('m', 'champion')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "UsageError: MLflow is not connected in this process" in done.stderr


def test_importing_the_registry_does_not_import_mlflow() -> None:
    code = "import sys\nfrom registry import models\nassert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_fresh_store_leaves_nothing_in_the_current_folder_and_logs_nothing(tmp_path: Path) -> None:
    (tmp_path / "cwd").mkdir()
    code = (
        "from pathlib import Path\nfrom registry import models\n"
        f"models.connect(Path({str(tmp_path / 'home')!r}))\n"
        "with models.retrain_run('tiny'): pass\n"
    )
    root = str(Path(models.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path / "cwd",
        env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert not list((tmp_path / "cwd").iterdir())
