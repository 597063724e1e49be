"""The ``gemmill`` command as tests run it, and how it ended."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROWS = 4  # of the sample's test split, in the fixture ``data``; the third is out of scope


@dataclass(frozen=True)
class Ran:
    """How a command ended, its texts without colours."""

    code: int | str | None
    out: str
    err: str

    def assert_refused(self, code: int, reason: str) -> None:
        """The last words are one line that says ``reason``; data may have a table of its lines before it."""
        assert self.code == code, self
        assert "Traceback" not in self.err
        table, error = self.err.strip().rpartition("\n")[::2]
        assert error.startswith("error: "), self.err
        assert reason in error
        assert "error: " not in table


Gemmill = Callable[..., Ran]


def gemmill_process(home: Path, *arguments: object, **environment: str) -> Ran:
    """``gemmill`` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.main", *map(str, arguments)],
        env={**os.environ, "GEMMILL_HOME": str(home), **environment},
        capture_output=True,
        text=True,
    )
    return Ran(code=done.returncode, out=done.stdout, err=done.stderr)
