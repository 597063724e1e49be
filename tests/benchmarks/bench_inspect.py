"""Seconds and peak memory of reading every tensor's statistics, each model in a process of its own.

    python -m tests.benchmarks.bench_inspect MODEL [MODEL ...]

MODEL is a Hugging Face folder, an adapter folder or a GGUF file.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table


def measure(model: str) -> None:
    """Print entries, seconds of reading, seconds of processor time and peak MiB of this process."""
    from tasks.forensics.statistics import tensor_statistics

    start = time.perf_counter()
    statistics = tensor_statistics(Path(model))
    seconds = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(statistics.parameters, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def main(models: list[str]) -> None:
    table = Table(title="tensor statistics", title_justify="left")
    table.add_column("model")
    for column in ("parameters", "seconds", "processor s", "peak MiB"):
        table.add_column(column, justify="right")
    for model in models:
        child = [sys.executable, "-m", "tests.benchmarks.bench_inspect", "--one", model]
        found = subprocess.run(child, check=True, capture_output=True, text=True).stdout.split()
        table.add_row(model, f"{int(found[0]):,}", *(f"{float(value):.1f}" for value in found[1:]))
    Console().print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measure(sys.argv[2])
    elif sys.argv[1:]:
        main(sys.argv[1:])
    else:
        sys.exit(__doc__)
