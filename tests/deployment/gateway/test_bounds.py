"""What a gateway bounds: who may ask, how often, how much, for how long."""

import hashlib
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fake_openai import FakeOpenAi
from gateways import assert_problem, eventually, gateway, source_of

from deployment.gateway.keys import KeysFile, read_keys
from deployment.gateway.limits import Rate
from deployment.gateway.problems import Refused
from registry.errors import UsageError

ANSWER = '{"intent": "report_leak", "entities": {}}'
SECRET = "SG-402 leaks in hall seven"


class Gate:
    """A language model that answers once it is let."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.asked = 0

    def __call__(self, command: str) -> str:
        self.asked += 1
        self.open.wait(30)
        return ANSWER


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def keys_file(folder: Path, *names: str) -> Path:
    path = folder / "keys"
    digests = [hashlib.sha256(f"key of {name}".encode()).hexdigest() for name in names]
    path.write_text(
        "# who may ask\n\n" + "\n".join(f"{digest} {name}" for digest, name in zip(digests, names, strict=True))
    )
    return path


def test_only_those_with_a_key_are_answered(tmp_path: Path) -> None:
    keys = KeysFile(keys_file(tmp_path, "line 7", "lab"))
    with (
        FakeOpenAi(lambda command: ANSWER) as model,
        gateway(source_of(model.address), tmp_path, keys=keys, loopback=False) as client,
    ):
        wrong = ({}, {"Authorization": "Bearer wrong"}, {b"X-API-Key": b"\xff"}, {"Authorization": "Basic a2V5"})
        for headers in wrong:
            for method, route in (("POST", "/v1/audit"), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/no")):
                response = client.request(method, route, headers=headers, json={"command": SECRET})
                assert_problem(response, 401, "asks for a key")
                assert response.headers["www-authenticate"] == "Bearer"
        for headers in (
            {"Authorization": "bearer key of line 7"},
            {"X-API-Key": "key of lab", "Host": "plant.example"},
        ):
            assert client.post("/v1/audit", headers=headers, json={"command": SECRET}).status_code == 200
        for route in ("/", "/healthz", "/readyz", "/openapi.json"):
            assert client.get(route).status_code == 200


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no key"),
        ("# none\n", "holds no key"),
        ("my-key\n", "line 1"),
        (f"{'a' * 64} one\n{'A' * 64} two\n", "line 2"),
        ("\udcff", "cannot be read"),
    ],
)
def test_a_file_of_keys_that_cannot_be_used_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=said):
        read_keys(path)


def test_a_changed_file_of_keys_counts_at_once_and_a_broken_one_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("deployment"), "propagate", True)
    now, path = 0.0, keys_file(tmp_path, "line 7")
    keys = KeysFile(path, clock=lambda: now)

    def known(*names: str) -> list[str | None]:
        return [keys.name_of(f"key of {name}".encode()) for name in names]

    assert known("line 7", "lab") == ["line 7", None]
    keys_file(tmp_path, "lab", "line 8")
    assert known("line 7", "lab") == ["line 7", None]  # it is not looked at that often
    now = 1.0
    assert known("line 7", "lab", "line 8") == [None, "lab", "line 8"]
    for number, broken in enumerate(("no key at all\n", "", None)):
        path.unlink() if broken is None else path.write_text(broken)
        for _ in range(3):
            now += 1.0
            assert known("lab", "line 8") == ["lab", "line 8"]
        warned = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warned) == number + 1
        assert "stay as they were" in warned[-1].getMessage()
    keys_file(tmp_path, "line 9")
    now += 1.0
    assert known("lab", "line 9") == [None, "line 9"]


def test_a_bucket_refills_and_a_batch_counts_as_many() -> None:
    now = 0.0
    rate = Rate(6, clock=lambda: now)

    def wait() -> str:
        with pytest.raises(Refused) as refused:
            rate.take("a")
        return refused.value.headers["Retry-After"]

    for _ in range(6):
        rate.take("a")
    assert wait() == "10"
    rate.take("b")
    now = 10.5
    rate.take("a")
    assert wait() == "10"
    now = 1000.0
    rate.take("a")
    rate.charge("a", 19)
    assert wait() == "150"


def test_the_buckets_of_many_clients_do_not_pile_up() -> None:
    now = 0.0
    rate = Rate(1, clock=lambda: now)
    for client in range(10_100):
        rate.take(str(client))
    assert len(rate._buckets) == 10_000
    now = 100.0
    rate.take("new")
    assert len(rate._buckets) == 1


def test_more_than_the_rate_is_told_when_to_come_again(tmp_path: Path) -> None:
    with (
        FakeOpenAi(lambda command: ANSWER) as model,
        gateway(source_of(model.address), tmp_path, rate=5) as client,
    ):
        assert client.post("/v1/audit/batch", json={"commands": [SECRET] * 5}).status_code == 200
        response = client.post("/v1/audit", json={"command": SECRET})
        assert_problem(response, 429, "5 requests a minute")
        assert 0 < int(response.headers["retry-after"]) <= 12
        assert 'http_response_status_code="429",http_route="/v1/audit"} 1.0' in client.get("/metrics").text
        assert client.get("/healthz").status_code == 200


def test_who_finds_the_queue_full_is_told_at_once_and_all_others_are_answered(tmp_path: Path, gate: Gate) -> None:
    with (
        FakeOpenAi(gate) as model,
        gateway(source_of(model.address), tmp_path, parallel=1, queue=2) as client,
        ThreadPoolExecutor(3) as pool,
    ):
        asked = [pool.submit(client.post, "/v1/audit", json={"command": SECRET}) for _ in range(3)]
        eventually(lambda: "gemmill_line 3.0" in client.get("/metrics").text)
        for route, body in (
            ("/v1/audit", {"command": SECRET}),
            ("/v1/audit/batch", {"commands": [SECRET]}),
            ("/v1/audit/stream", {"command": SECRET}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": SECRET}]}),
        ):
            response = client.post(route, json=body)
            assert_problem(response, 503, "no more can wait")
            assert response.headers["retry-after"] == "1"
        eventually(lambda: gate.asked == 1)
        assert client.get("/healthz").status_code == 200  # the event loop is free
        gate.open.set()
        assert [request.result().status_code for request in asked] == [200, 200, 200]
        assert 'gemmill_refused_total{reason="queue"} 4.0' in client.get("/metrics").text


def test_a_request_has_its_deadline_in_the_queue_too(tmp_path: Path, gate: Gate) -> None:
    with (
        FakeOpenAi(gate) as model,
        gateway(source_of(model.address, answer_seconds=0.3), tmp_path, parallel=1, timeout=0.3) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        bodies = [
            ("/v1/audit", {"command": SECRET}),
            ("/v1/audit/batch", {"commands": [SECRET] * 3}),
            ("/v1/audit/stream", {"command": SECRET}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": SECRET}]}),
        ]
        asked = [pool.submit(client.post, route, json=body) for route, body in bodies]
        for request in asked:
            response = request.result()
            assert response.status_code in (503, 504)  # the model's own bound is the same
            assert_problem(response, response.status_code, "ask again")
        assert 504 in [request.result().status_code for request in asked]
        gate.open.set()
        eventually(lambda: client.post("/v1/audit", json={"command": SECRET}).status_code == 200)


def test_a_body_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with FakeOpenAi(lambda command: ANSWER) as model, gateway(source_of(model.address), tmp_path) as client:
        large = b'{"command": "' + b"x" * (64 << 10) + b'"}'
        assert_problem(client.post("/v1/audit", content=large), 413, "64 kB")
        chunks = (b"x" * 1000 for _ in range(100))
        assert_problem(client.post("/v1/audit", content=chunks), 413, "64 kB")
        assert_problem(client.post("/v1/audit/batch", content=bytes(2 << 20)), 413, "1,024 kB")
        long = {"command": "x" * 2001}
        assert_problem(client.post("/v1/audit", json=long), 400, "at most 2000 characters")
        assert_problem(client.post("/v1/audit/batch", json={"commands": ["x"] * 65}), 400, "at most 64 items")


def test_a_page_of_another_site_reaches_nothing(tmp_path: Path) -> None:
    with FakeOpenAi(lambda command: ANSWER) as model, gateway(source_of(model.address), tmp_path) as client:
        response = client.post("/v1/audit", headers={"Host": "evil.example"}, json={"command": SECRET})
        assert_problem(response, 403, "another name")
        for host in ("localhost:8765", "[::1]:8765", "127.0.0.1"):
            assert client.get("/healthz", headers={"Host": host}).status_code == 200
        preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        response = client.options("/v1/audit", headers=preflight)
        assert response.status_code == 405
        assert not [name for name in response.headers if name.startswith("access-control")]
        simple = {"Content-Type": "text/plain", "Origin": "https://evil.example"}
        assert_problem(client.post("/v1/audit", headers=simple, content='{"command": "x"}'), 400, "cannot be used")


@pytest.mark.parametrize("log_texts", [False, True])
def test_the_log_has_texts_only_where_it_should(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, log_texts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("deployment"), "propagate", True)

    def fails(command: str) -> str:
        raise ValueError(command)

    caplog.set_level(logging.DEBUG)
    with (
        FakeOpenAi(lambda command: ANSWER) as model,
        gateway(source_of(model.address), tmp_path, log_texts=log_texts) as client,
    ):
        client.post("/v1/audit", json={"command": SECRET})
        client.post("/v1/audit/stream", json={"command": SECRET})
        client.post("/v1/audit", json={"command": [SECRET]})
        model.faults["POST /v1/chat/completions"] = (500, f"cannot answer {SECRET}")
        assert_problem(client.post("/v1/audit", json={"command": SECRET}), 503, "does not answer")
        monkeypatch.setattr("deployment.answers.assistant.Assistant.answer", lambda self, command: fails(command))
        assert_problem(client.post("/v1/audit", json={"command": SECRET}), 500, "a fault of its own")
    assert "POST /v1/audit 200" in caplog.text
    assert "ValueError" in caplog.text
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("httpx")]
    assert any(SECRET in said for said in ours) == log_texts
