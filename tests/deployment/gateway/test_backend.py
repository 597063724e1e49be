"""The model behind the gateway: it comes back when it is killed, and changes without a lost request."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from fake_openai import FakeOpenAi
from gateways import assert_problem, eventually, gateway, source_of

from deployment.answers.assistant import Assistant
from deployment.gateway import backend
from deployment.gateway.backend import Backend, Source
from registry.errors import ServiceUnavailable, UsageError
from registry.records import Record


def test_a_killed_model_costs_the_requests_under_way_a_503_and_comes_back(
    model: Path, tmp_path: Path, plant_records: list[Record]
) -> None:
    opened: list[Assistant] = []

    def open_model() -> Assistant:
        opened.append(Assistant(model, threads=1, parallel=2))
        return opened[-1]

    body = {"command": plant_records[0].command}
    with gateway(Source(name="plant", open=open_model), tmp_path) as client, ThreadPoolExecutor(2) as pool:
        assert client.post("/v1/audit", json=body).status_code == 200
        first = opened[0].pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)  # so that requests are under way
        asked = [pool.submit(client.post, "/v1/audit", json=body) for _ in range(2)]
        eventually(lambda: "gemmill_line 2.0" in client.get("/metrics").text)
        os.kill(first, signal.SIGKILL)
        for request in asked:
            assert_problem(request.result(), 503, "ask again")
            assert request.result().headers["retry-after"]
        eventually(lambda: client.get("/readyz").status_code == 200)
        assert client.post("/v1/audit", json=body).json()["intent"] == plant_records[0].response.intent
        assert opened[-1].pid != first
        assert "gemmill_model_openings 2.0" in client.get("/metrics").text
    assert not opened[-1].alive


def test_a_model_that_ends_while_nobody_asks_comes_back_too(model: Path) -> None:
    served = Backend(source_of(model))
    try:
        first = served.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        eventually(lambda: served.pid != first)
        served.probe()
    finally:
        served.close()


def test_a_model_that_hangs_is_ended_and_comes_back(
    model: Path, tmp_path: Path, plant_records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_HANGS_AFTER", 0.5)
    opened: list[Assistant] = []

    def open_model() -> Assistant:
        opened.append(Assistant(model, threads=1, parallel=2, answer_seconds=1))
        return opened[-1]

    body = {"command": plant_records[0].command}
    with gateway(Source(name="plant", open=open_model), tmp_path, timeout=20) as client:
        assert client.post("/v1/audit", json=body).status_code == 200
        stuck = opened[0].pid
        assert stuck is not None
        os.kill(stuck, signal.SIGSTOP)
        assert_problem(client.post("/v1/audit", json=body), 503, "ask again")
        eventually(lambda: len(opened) == 2)
        eventually(lambda: client.get("/readyz").status_code == 200)
        assert client.post("/v1/audit", json=body).json()["intent"] == plant_records[0].response.intent
        assert "gemmill_model_openings 2.0" in client.get("/metrics").text
        assert not psutil.pid_exists(stuck)


def test_a_model_that_is_slow_but_lives_is_not_opened_anew(model: Path) -> None:
    slow = Backend(source_of(model))
    try:
        for _ in range(5):
            slow._current.suspect = True  # as a request that got no answer in time leaves it
            slow._wake.set()
            eventually(lambda: not slow._current.suspect)
        assert slow.answer("Oil leak at SG-402.").intent == "report_leak"
        assert slow.openings == 1
    finally:
        slow.close()


def test_a_model_that_does_not_open_again_is_tried_until_it_does(model: Path) -> None:
    faults = [ServiceUnavailable("not now."), RuntimeError("nor now")]
    opened: list[Assistant] = []

    def open_model() -> Assistant:
        if opened and faults:
            raise faults.pop()
        opened.append(Assistant(model, threads=1))
        return opened[-1]

    served = Backend(Source(name="plant", open=open_model))
    try:
        assert opened[0].pid is not None
        os.kill(opened[0].pid, signal.SIGKILL)
        eventually(lambda: not opened[0].alive)
        with pytest.raises(ServiceUnavailable):
            served.answer("Oil leak at SG-402.")
        eventually(lambda: len(opened) == 2)
        assert not faults
    finally:
        served.close()


def test_an_alias_that_moves_changes_the_model_without_a_lost_request(tmp_path: Path) -> None:
    def says(intent: str):
        return lambda command: f'{{"intent": "{intent}", "entities": {{}}}}'

    with FakeOpenAi(says("old")) as old, FakeOpenAi(says("new")) as new:
        behind, closed = [old.address], []

        class Closing(Assistant):
            def close(self) -> None:
                super().close()
                closed.append(self)

        source = Source(
            name="models:/plant@champion",
            open=lambda: Closing(behind[0], parallel=4),
            revision=lambda: behind[0],
            poll=0.1,
        )
        stop = threading.Event()

        def ask() -> list[tuple[int, str]]:
            found = []
            while not stop.is_set():
                response = client.post("/v1/audit", json={"command": "x"})
                found.append((response.status_code, response.json().get("intent")))
            return found

        with gateway(source, tmp_path, parallel=4) as client, ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(ask) for _ in range(8)]
            eventually(lambda: len(old.bodies) > 50)
            behind[0] = new.address
            eventually(lambda: len(new.bodies) > 50)
            stop.set()
            found = [answer for asker in asking for answer in asker.result()]
            assert len(closed) == 1  # the old one, once nobody asked it any more
        assert set(found) == {(200, "old"), (200, "new")}
        assert len(closed) == 2


def test_a_registry_out_of_reach_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    looked = []

    def revision() -> str:
        looked.append(1)
        if len(looked) > 1:
            raise ServiceUnavailable("No MLflow server answers.")
        return "1"

    with FakeOpenAi(lambda command: '{"intent": "x", "entities": {}}') as model:
        source = Source(name="plant", open=lambda: Assistant(model.address), revision=revision, poll=0.1)
        with gateway(source, tmp_path) as client:
            eventually(lambda: len(looked) > 1)
            assert client.post("/v1/audit", json={"command": "x"}).json()["intent"] == "x"


def test_a_model_that_cannot_be_used_is_told_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no package"):
        Backend(source_of(tmp_path))
