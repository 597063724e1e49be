"""llama.cpp's server as a child process: its address, its end, and why it failed as its log has it."""

import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from registry.errors import ServiceUnavailable, UsageError
from registry.files import read_at

_CHILD = Path(__file__).with_name("llama_child.py")
_START_TIMEOUT = 180.0  # seconds; a 1B file on a cold disk and a busy machine takes tens
_STOP_TIMEOUT = 5.0  # seconds from closing the child's input to killing it
_LOG_BYTES = 1 << 20  # far more than llama.cpp's errors ever take

# What to look for in the log, best first: a failed assertion, llama.cpp's first error, Python's last line.
_REASONS = [
    re.compile(r"(\S*GGML_(?:ASSERT|ABORT).*)"),
    re.compile(r"^[\d.]+ E (?:\w+\s+)?\w+: (?:error loading model: )?(.*)"),
    re.compile(r"^(\w+Error: .*)"),
]


class LlamaProcess:
    """The child that serves ``gguf`` at ``address`` until :meth:`stop`; it ends with this process too.

    ``options`` are those of ``llama_child.py``. Raises UsageError where llama.cpp refuses the file, ServiceUnavailable
    where it does not load in time.
    """

    def __init__(self, gguf: Path, options: Mapping[str, Any]) -> None:
        self._gguf = gguf
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - stop() closes it
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(_CHILD), json.dumps({"gguf": str(gguf), **options})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,  # or a Ctrl-C in the terminal would end it before the requests under way
        )
        try:
            self.address = self._wait_for_address()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def log(self) -> str:
        """What llama.cpp has said."""
        return read_at(self._log.fileno(), _LOG_BYTES, 0).decode(errors="replace")

    def reason(self) -> str:
        """The line of the log that says why the child failed, empty where none does."""
        lines = [line for line in self.log().splitlines() if line.strip() and "send_error" not in line]
        for pattern in _REASONS:
            for line in lines:
                if match := pattern.search(line):
                    return match[1].strip().rstrip(".")
        return ""

    def kill(self) -> None:
        """End the child at once, though it hangs; requests to it fail."""
        self._child.kill()
        self._child.wait()

    def stop(self) -> None:
        assert self._child.stdin is not None  # noqa: S101 - a pipe was asked for
        assert self._child.stdout is not None  # noqa: S101
        self._child.stdin.close()
        try:
            self._child.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
        self._child.stdout.close()
        self._log.close()

    def _wait_for_address(self) -> str:
        timer = threading.Timer(_START_TIMEOUT, self._child.kill)
        timer.start()
        assert self._child.stdout is not None  # noqa: S101 - a pipe was asked for
        address = self._child.stdout.readline().strip()
        timed_out = not timer.is_alive()
        timer.cancel()
        if address:
            return address
        self._child.wait()
        if timed_out:
            raise ServiceUnavailable(
                f"llama.cpp did not load {self._gguf} within {_START_TIMEOUT:.0f} s; try again when the "
                "machine is less busy."
            )
        raise UsageError(
            f"llama.cpp cannot load {self._gguf}: {self.reason() or 'it gave no reason'}. Export the file "
            "again or fetch it anew."
        )
