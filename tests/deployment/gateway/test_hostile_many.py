"""Ten thousand hostile requests to a gateway in a process of its own, and what they cost it."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from gateways import eventually
from hostile_requests import Hostile, ending, hostile_requests
from hypothesis import Phase, given, settings
from raw_http import sent
from served import Served, served

from registry.records import LabelSet, Record

REQUESTS = 10_000
CLIENTS = 4
SLOW = 40  # connections beside them that send a byte now and then
WARM = 400  # requests until memory is what it is at work
GROWTH = 64 << 20  # bytes that each process may take more after all of them than after the first ones

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore:Generating overly large repr"),
]


def endings(gateway: Served, labels: LabelSet, count: int) -> Counter[str]:
    """How ``count`` requests or a few more ended, sent by several clients at once."""
    found: Counter[str] = Counter()

    def client(_: int) -> None:
        @settings(max_examples=count // CLIENTS, phases=[Phase.generate], database=None, deadline=None)
        @given(hostile_requests())
        def asks(request: Hostile) -> None:
            half = request.manner in ("cut", "half closed") or request.route == "garbage"
            reply = sent(gateway.port, request.parts, close=half, reset=request.manner == "broken off")
            found[ending(request, reply, labels)] += 1

        asks()

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))
    return found


def trickle(gateway: Served) -> str:
    """A client that takes a minute for its request."""
    body = b'{"command": "' + b"x" * 1000 + b'"}'
    head = f"POST /v1/audit HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    content = head + body
    reply = sent(gateway.port, [content[place : place + 1] for place in range(len(content))], pause=0.06)
    return str(reply.status) if reply else "hung up"


def resident(gateway: Served) -> dict[str, int]:
    process = psutil.Process(gateway.process.pid)
    [child] = process.children()
    return {"gateway": process.memory_info().rss, "model": child.memory_info().rss}


def test_ten_thousand_hostile_requests_leave_it_as_it_was(
    model: Path, tmp_path: Path, plant_labels: LabelSet, plant_records: list[Record]
) -> None:
    with served(model, tmp_path, "--timeout", "15") as gateway, ThreadPoolExecutor(SLOW) as slow:
        warm = endings(gateway, plant_labels, WARM)
        before = resident(gateway)
        trickling = [slow.submit(trickle, gateway) for _ in range(SLOW)]
        found = warm + endings(gateway, plant_labels, REQUESTS - WARM)
        given_up = Counter(client.result() for client in trickling)
        with gateway.client() as client:
            eventually(lambda: client.get("/readyz").status_code == 200)
            after = resident(gateway)
            for record in plant_records:
                answer = client.post("/v1/audit", json={"command": record.command}).json()
                assert answer["intent"] == record.response.intent
            counted = client.get("/metrics").text
    grown = {name: after[name] - before[name] for name in after}
    print(f"{dict(found)}, slow: {dict(given_up)}, memory: {before} grew by {grown}")
    assert found.total() >= REQUESTS
    assert given_up.keys() == {"408"}
    assert "gemmill_model_openings 1.0" in counted
    assert 'http_response_status_code="500"' not in counted
    assert all(growth < GROWTH for growth in grown.values()), grown
    log = gateway.log.read_text(errors="replace")
    assert "Traceback" not in log, log[log.index("Traceback") :][:3000]
