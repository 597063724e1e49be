"""A measurement in a process of its own, so that peaks of memory do not mix."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

GIB = 1 << 20  # of ru_maxrss, which counts KiB


def run_child(module: str, *arguments: object) -> dict[str, Any]:
    """What ``python -m module --child arguments`` prints as its last line."""
    command = [sys.executable, "-m", module, "--child", *map(str, arguments)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}  # what is measured here is the CPU
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return json.loads(found.splitlines()[-1])


def report(**figures: Any) -> None:
    """Print what the parent reads, with this process's peak memory in GiB."""
    print(json.dumps(figures | {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB}))


def resident_gib() -> float:
    """What this process holds in memory now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / GIB / 1024


def step_clock(seconds: list[float]) -> Any:
    """A callback for a transformers Trainer that appends the seconds of each step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        started = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.started)

    return Clock()


def median_seconds(action: Callable[[], object], times: int) -> float:
    """The median over ``times`` calls, after one that warms up."""
    action()
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return median(seconds)
