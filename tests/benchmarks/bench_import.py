"""Seconds and peak memory of reading a GGUF file into float32 weights and a tokenizer, beside transformers' own way.

    python -m tests.benchmarks.bench_import FILE.gguf [FILE.gguf ...]

gemmill writes a folder, flushed to disk, which transformers then loads; transformers makes the same in memory and
writes nothing. Each runs in a process of its own, the imports of its libraries not counted.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.child import report, run_child

_WAYS = {
    "import": "gemmill import",
    "import_and_load": "gemmill import, then transformers",
    "transformers": "transformers, gguf_file=",
}


def measure(way: str, gguf: Path) -> None:
    """Print seconds, seconds of processor time and peak GiB of this process."""
    with tempfile.TemporaryDirectory(dir=gguf.parent) as scratch:
        action = _action(way, gguf, Path(scratch) / "folder")
        start, busy = time.perf_counter(), time.process_time()
        kept = action()
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        del kept
    report(seconds=seconds, processor=busy)


def _action(way: str, gguf: Path, folder: Path) -> Callable[[], Any]:
    from tasks.gguf.reader import import_gguf

    if way == "import":
        return lambda: import_gguf(gguf, folder)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

    def load(place: Path, **arguments: Any) -> Any:
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **arguments)
        return model, AutoTokenizer.from_pretrained(place, **arguments)

    if way == "transformers":
        return lambda: load(gguf.parent, gguf_file=gguf.name)

    def import_and_load() -> Any:
        import_gguf(gguf, folder)
        return load(folder)

    return import_and_load


def main(files: list[Path]) -> None:
    for gguf in files:
        table = Table(title=f"{gguf.name}, {gguf.stat().st_size / 1e6:.0f} MB", title_justify="left")
        table.add_column("way")
        for column in ("seconds", "processor s", "peak GiB", "ratio"):
            table.add_column(column, justify="right")
        found = {way: run_child("tests.benchmarks.bench_import", way, gguf.absolute()) for way in _WAYS}
        for way, figures in found.items():
            ratio = figures["processor"] / found["transformers"]["processor"]
            row = (figures["seconds"], figures["processor"], figures["peak_gib"], ratio)
            table.add_row(_WAYS[way], *(f"{value:.2f}" for value in row))
        Console().print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        measure(sys.argv[2], Path(sys.argv[3]))
    elif sys.argv[1:]:
        main([Path(name) for name in sys.argv[1:]])
    else:
        sys.exit(__doc__)
