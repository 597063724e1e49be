"""A gateway on a free port of this machine, for as long as a block runs."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from deployment.answers.assistant import Assistant
from deployment.gateway.app import gateway_app
from deployment.gateway.backend import Source
from deployment.gateway.server import address_of, listening_socket, server_of
from deployment.gateway.settings import GatewaySettings

PROBLEM = "application/problem+json"
_START_SECONDS = 20.0


def source_of(model: str | Path, *, name: str = "plant", answer_seconds: float = 30.0, **options: Any) -> Source:
    return Source(
        name=name, open=partial(Assistant, model, threads=1, parallel=2, answer_seconds=answer_seconds, **options)
    )


@contextmanager
def gateway(source: Source, folder: Path, **settings: Any) -> Iterator[httpx.Client]:
    """A client of a gateway before ``source``; ``folder`` is where corrections go."""
    app = gateway_app(source, GatewaySettings(feedback=folder / "feedback.jsonl", **{"parallel": 2, **settings}))
    server = server_of(app)
    with listening_socket("127.0.0.1", 0) as served:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [served]}, daemon=True)
        thread.start()
        try:
            until = time.monotonic() + _START_SECONDS
            while not server.started and time.monotonic() < until:
                time.sleep(0.01)
            with httpx.Client(base_url=address_of(served), timeout=60, trust_env=False) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


def assert_problem(response: httpx.Response, status: int, said: str) -> None:
    """That a response is an error of one clear sentence or two."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    problem = response.json()
    assert problem.keys() == {"title", "status", "detail"}
    assert problem["status"] == status
    assert said in problem["detail"], problem
    assert problem["detail"].endswith("."), problem


def eventually(seen: Any, *, seconds: float = 20.0) -> None:
    """Wait until ``seen()`` is true."""
    until = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.05)
