"""A real Prefect server makes the runs that prefect.yaml schedules."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

_ROOT = Path(__file__).parents[2]
_SECONDS = 120  # a busy machine is no failure
Found = TypeVar("Found")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The API's address and the environment of a Prefect server whose scheduler looks every second."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "prefect").mkdir()
    address = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
        "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
    }
    arguments = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "server.log").open("w") as log:
        running = subprocess.Popen(arguments, env=environment, stdout=log, stderr=log)
    try:
        _eventually(lambda: _answers(f"{address}/health"), log=tmp_path / "server.log")
        yield address, {**environment, "PREFECT_API_URL": address}
    finally:
        running.terminate()
        running.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.TransportError:
        return False


def _eventually(look: Callable[[], Found], *, log: Path | None = None) -> Found:
    end = time.monotonic() + _SECONDS
    while not (found := look()):
        assert time.monotonic() < end, log.read_text() if log else "nothing came"
        time.sleep(0.2)
    return found


@pytest.mark.slow
def test_retraining_is_scheduled_for_sunday_nights(server: tuple[str, dict[str, str]]) -> None:
    address, environment = server
    httpx.post(f"{address}/work_pools/", json={"name": "gemmill", "type": "process"}).raise_for_status()
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--name", "retrain"],
        cwd=_ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    query = {"deployments": {"name": {"any_": ["retrain"]}}, "sort": "EXPECTED_START_TIME_ASC"}
    runs = _eventually(lambda: httpx.post(f"{address}/flow_runs/filter", json=query).json())
    assert {run["state_type"] for run in runs} == {"SCHEDULED"}
    assert runs[0]["parameters"] == {"profile": "tiny", "dataset": "manufacturing-audit"}
    assert all("T02:00:00" in run["expected_start_time"] for run in runs)
