"""Which MLflow a process talks to, and what it says where none answers."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from registered import register

from registry import models
from registry.errors import ServiceUnavailable


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
