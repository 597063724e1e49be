"""``gemmill serve`` in a process of its own, as its user has it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx


@dataclass(frozen=True)
class Served:
    """A gateway that runs."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=60, trust_env=False)


@contextmanager
def served(model: Path | str, folder: Path, *options: str) -> Iterator[Served]:
    """A gateway before ``model``, in a process group of its own; its log and its home are in ``folder``."""
    log = folder / "serve.log"
    command = [sys.executable, "-m", "flows.cli.main", "serve", str(model), "--port", "0", "--home", str(folder)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--threads", "1", *options],
            stderr=out,
            env={**os.environ, "COLUMNS": "200"},
            start_new_session=True,
        )
    try:
        yield Served(process, _address(process, log), log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    while process.poll() is None:
        if found := re.search(r" at (http://127\.0\.0\.1:\d+)\n", log.read_text()):
            return found[1]
    raise AssertionError(log.read_text())
