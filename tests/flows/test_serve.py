"""``gemmill serve``: what it refuses before it serves, and its life from start to end."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from command_line import Gemmill
from fake_openai import FakeOpenAi


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
