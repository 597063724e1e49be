"""Bytes on a connection that are no request, or no whole one."""

import json
import logging
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from fake_openai import FakeOpenAi
from gateways import PROBLEM, eventually, gateway, source_of
from raw_http import Reply, request_bytes, sent

from deployment.gateway.protocol import GatewayProtocol

AUDIT = json.dumps({"command": "Oil leak at SG-402."}).encode()


def port_of(client: httpx.Client) -> int:
    port = urlsplit(str(client.base_url)).port
    assert port
    return port


def assert_told(reply: Reply | None, status: int, said: str) -> None:
    assert reply is not None
    assert (reply.status, reply.media_type) == (status, PROBLEM)
    assert said in reply.json()["detail"]


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20 + b"\r\n\r\n",  # TLS
        b"GET /\r\n\r\n",
        b"POST /v1/audit HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /v1/audit HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/audit HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST /v1/audit HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 200_000,
    ],
)
def test_what_is_no_http_is_told_as_a_problem(client: httpx.Client, content: bytes) -> None:
    assert_told(sent(port_of(client), [content]), 400, "no HTTP/1.1 request")


def test_garbage_after_an_answer_ends_the_connection_in_silence(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"POST /v1/audit HTTP/1.1\r\nHost: evil\r\nTransfer-Encoding: chunked\r\n\r\n"  # answered before its body
    reply = sent(port_of(client), [head, b"zz\r\n" * 10], pause=0.2)
    assert_told(reply, 403, "another name")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_request_to_upgrade_is_answered_as_any_other(client: httpx.Client) -> None:
    upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: YQ=="]
    raw = request_bytes("/v1/audit", b"", method="GET", headers=upgrade)
    assert_told(sent(port_of(client), [raw], close=True), 405, "not asked by this method")


def test_a_client_that_hangs_up_in_its_body_is_not_answered(tmp_path: Path) -> None:
    with FakeOpenAi(lambda command: '{"intent": "x", "entities": {}}') as model:
        with gateway(source_of(model.address), tmp_path) as client:
            whole = request_bytes("/v1/audit", AUDIT + b" " * 100)
            assert sent(port_of(client), [whole[:-100]], reset=True) is None
            eventually(lambda: 'gemmill_refused_total{reason="gone"} 1.0' in client.get("/metrics").text)
        assert not model.bodies


def test_a_request_whose_head_does_not_end_is_given_up(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GatewayProtocol, "head_seconds", 0.3)
    port, began = port_of(client), time.monotonic()
    assert_told(sent(port, [b"POST /v1/audit HTTP/1.1\r\n"]), 408, "within 0.3 s")
    assert_told(sent(port, []), 408, "within 0.3 s")
    assert_told(sent(port, [b"X"] * 100, pause=0.02), 408, "within 0.3 s")
    refused = b"POST /v1/audit HTTP/1.1\r\nHost: evil\r\nContent-Length: 60000\r\n\r\n"
    assert_told(sent(port, [refused, *[b"x"] * 100], pause=0.02), 403, "another name")  # then it trickles on
    assert time.monotonic() - began < 10
    kept = request_bytes("/v1/audit", AUDIT, headers=["Connection: keep-alive"])
    reply = sent(port, [kept, *[b"X"] * 100], pause=0.02)
    assert reply is not None
    assert reply.status == 200


def test_a_request_that_comes_byte_by_byte_is_answered(client: httpx.Client) -> None:
    raw = request_bytes("/v1/audit", AUDIT)
    reply = sent(port_of(client), [raw[place : place + 1] for place in range(len(raw))])
    assert reply is not None
    assert reply.json()["intent"] == "report_leak"
