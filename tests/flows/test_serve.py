"""``gemmill serve``: what it refuses before it serves, and its life from start to end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from command_line import Gemmill
from fake_openai import FakeOpenAi
from gateways import eventually
from learnt_model import learnt_gguf, learnt_model_dir, model, plant_labels, plant_records
from raw_http import request_bytes, sent
from served import served

from registry.records import Record

__all__ = ["learnt_gguf", "learnt_model_dir", "model", "plant_labels", "plant_records"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "give --keys FILE"),  # noqa: S104
        (["--host", ""], "give --keys FILE"),
        (["--host", "::"], "give --keys FILE"),
        (["--host", "no.such.host.invalid"], "leads nowhere"),
        (["--keys", "missing"], "cannot be read"),
    ],
)
def test_what_would_be_open_to_all_or_cannot_be_reached_is_refused(
    gemmill: Gemmill, tmp_path: Path, arguments: list[str], said: str
) -> None:
    gemmill("serve", "model.gguf", *arguments, "--home", tmp_path).assert_refused(2, said)


def test_a_port_that_is_taken_and_a_model_that_is_none_are_told(gemmill: Gemmill, tmp_path: Path) -> None:
    with FakeOpenAi(lambda command: "{}") as taken:
        port = taken.host.rpartition(":")[2]
        gemmill("serve", tmp_path, "--port", port, "--home", tmp_path).assert_refused(2, "Address already in use")
    gemmill("serve", tmp_path, "--port", 0, "--home", tmp_path).assert_refused(2, "no package")


def test_it_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    with FakeOpenAi(lambda command: '{"intent": "report_leak", "entities": {}}') as model:
        command = [sys.executable, "-m", "flows.cli.main", "serve", model.address, "--port", "0", "--home", tmp_path]
        process = subprocess.Popen(
            [*map(str, command)], stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"}
        )
        try:
            assert process.stderr is not None
            address = re.search(r" at (http://127\.0\.0\.1:\d+)$", process.stderr.readline().strip())
            assert address
            answer = httpx.post(f"{address[1]}/v1/audit", json={"command": "x"}, trust_env=False).json()
            assert answer["intent"] == "report_leak"
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert "POST /v1/audit 200" in process.stderr.read()
        finally:
            process.kill()
            process.wait()


def test_ctrl_c_in_a_terminal_leaves_the_requests_under_way_their_answers(
    model: Path, tmp_path: Path, plant_records: list[Record]
) -> None:
    raw = request_bytes("/v1/audit", json.dumps({"command": plant_records[0].command}).encode())

    def parts() -> Iterator[bytes]:
        yield raw[:-5]
        with gateway.client() as client:
            eventually(lambda: "http_server_active_requests 2.0" in client.get("/metrics").text)
        os.killpg(gateway.process.pid, signal.SIGINT)
        time.sleep(1)  # in which a child that had it too would have ended
        yield raw[-5:]

    with served(model, tmp_path) as gateway:
        [child] = psutil.Process(gateway.process.pid).children()
        reply = sent(gateway.port, parts())
        assert reply is not None
        assert reply.json().get("intent") == plant_records[0].response.intent
        assert gateway.process.wait(30) == 0
        assert not re.search("Traceback|ended", gateway.log.read_text())
        eventually(lambda: not child.is_running())


def test_ctrl_c_ends_asking_without_a_traceback(model: Path, plant_records: list[Record]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli.main", "ask", str(model), "--threads", "1"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{plant_records[0].command}\n")
        process.stdin.flush()
        assert plant_records[0].response.intent in process.stdout.readline()
        [child] = psutil.Process(process.pid).children()
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "Traceback" not in said
        eventually(lambda: not child.is_running())
    finally:
        process.kill()
        process.wait()
