"""Time, memory and bytes of an export to GGUF, beside llama.cpp's own converter and quantiser.

    python -m tests.benchmarks.bench_export BASE [--models 270m 1b] [--types q8_0 f16 bf16 q4_0] [--upstream DIR]

BASE is a Hugging Face folder of Gemma 3 270M. Beside it stands a model of Gemma 3 1B's shape with random weights in
bf16 and BASE's tokenizer. Each is exported by the exporter alone (imports not counted), by the whole command without
and, of BASE, with its verification, and by convert_hf_to_gguf.py, which makes q4_0 as f16 first and then with
llama-quantize. A processor second is one of any core; peak memory is that of the largest process. Then both files are
compared; those of q4_0 with upstream's from float32, since its float16 rounds every weight once more. Ends with 1 for a
difference without a reason.

Upstream's environment: make .venv/upstream/.installed
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console
from rich.table import Table

from registry.cores import usable_cores
from tasks.checkpoints.architectures import describe
from tasks.checkpoints.architectures.gemma3 import layer_types
from tasks.checkpoints.checkpoint import safetensors_header
from tasks.checkpoints.files import read_json
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType
from tests.benchmarks.child import GIB, report, run_child
from tests.benchmarks.gguf_difference import difference
from tests.benchmarks.upstream import UPSTREAM, convert_command, is_installed, quantize_command, upstream_folder

_GEMMA_1B = {
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "num_hidden_layers": 26,
    "layer_types": layer_types(26),
}
_CHUNK = 1 << 22  # random weights at a time
_RANDOM_SCALE = 0.03  # about that of trained weights
_TYPES = (QuantType.Q8_0, QuantType.F16, QuantType.BF16, QuantType.Q4_0)
_COST_COLUMNS = ("seconds", "processor s", "peak GiB", "× time", "× processor", "× memory")
_REASONS = {"general.name": "the folder's name as it is, which upstream capitalises"}  # by metadata key


@dataclass(frozen=True)
class Cost:
    """Of one command, or of several in turn."""

    seconds: float
    processor: float
    peak_gib: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.seconds + other.seconds, self.processor + other.processor, max(self.peak_gib, other.peak_gib))


def run(command: Sequence[str]) -> Cost:
    """Run a command to its end; exit with what it said where it fails."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        errors = child.stderr.read() if child.stderr else ""
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(command)} ended with {child.returncode}:\n{errors}")
    return Cost(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / GIB)


def export_alone(folder: Path, out: Path, type_: QuantType) -> None:
    """Print what the export costs in this process, where everything is imported."""
    started, busy = time.perf_counter(), time.process_time()
    export_gguf(folder, out, weights=type_)
    report(seconds=time.perf_counter() - started, processor=time.process_time() - busy)


def random_1b(base: Path, folder: Path) -> Path:
    """A model of Gemma 3 1B's shape with the tokenizer of ``base``."""
    folder.mkdir()
    config = {**read_json(base / "config.json"), **_GEMMA_1B, "dtype": "bfloat16"}
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).symlink_to(file.absolute())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shapes = describe(config).tensor_shapes
    generator = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(safetensors_header({name: ("BF16", shape) for name, shape in shapes.items()}))
        for shape in shapes.values():
            for start in range(0, prod(shape), _CHUNK):
                values = generator.standard_normal(min(_CHUNK, prod(shape) - start), dtype=np.float32)
                values *= np.float32(_RANDOM_SCALE)
                stream.write((values.view(np.uint32) >> np.uint32(16)).astype("<u2").tobytes())
    return folder


@dataclass(frozen=True)
class Bench:
    """The models are exported to files in ``place``, which are gone when the next one is."""

    base: Path
    environment: Path
    place: Path
    console: Console

    def model(self, name: str, folder: Path, types: Sequence[QuantType]) -> bool:
        """Print the tables of one model; whether every difference has a reason."""
        costs = self._table(f"{name}, {usable_cores()} cores", "type", "way", *_COST_COLUMNS)
        equality = self._table("the files", "type", "equal tensors", "equal metadata", "differences")
        theirs = upstream_folder(folder, self.place / "upstream" / folder.resolve().name)
        sound = True
        for type_ in types:
            ours, reference = self.place / "gemmill.gguf", self.place / "upstream.gguf"
            self._costs(costs, folder, theirs, ours, reference, type_)
            if type_ is QuantType.Q4_0:
                self._upstream(theirs, reference, type_, QuantType.F32)
            sound &= self._compare(equality, ours, reference, type_)
        self.console.print(costs, equality)
        return sound

    def _table(self, title: str, *columns: str) -> Table:
        table = Table(title=title, title_justify="left")
        for column in columns:
            table.add_column(column, justify="left" if column in ("type", "way", "differences") else "right")
        return table

    def _costs(self, table: Table, folder: Path, theirs: Path, ours: Path, reference: Path, type_: QuantType) -> None:
        alone = Cost(**run_child("tests.benchmarks.bench_export", folder, ours, type_))
        command = [sys.executable, "-m", "flows.cli.main", "convert", f"{folder}", f"{ours}", "--type", type_]
        upstream = self._upstream(theirs, reference, type_, QuantType.F16)
        ways = {"the exporter alone": alone, "gemmill convert --no-verify": run([*command, "--no-verify"])}
        if folder == self.base:  # random weights predict nothing that could be verified
            ways["gemmill convert"] = run(command)
        for way, cost in {**ways, "upstream": upstream}.items():
            table.add_row(
                type_, way, f"{cost.seconds:.1f}", f"{cost.processor:.1f}", f"{cost.peak_gib:.2f}",
                f"{upstream.seconds / cost.seconds:.1f}", f"{upstream.processor / cost.processor:.1f}",
                f"{upstream.peak_gib / cost.peak_gib:.1f}",
            )  # fmt: skip

    def _upstream(self, folder: Path, out: Path, type_: QuantType, between: QuantType) -> Cost:
        """``between``: the type of the file that llama-quantize reads."""
        if type_ is not QuantType.Q4_0:
            return run(convert_command(self.environment, folder, out, type_))
        whole = self.place / "between.gguf"
        first = run(convert_command(self.environment, folder, whole, between))
        return first + run(quantize_command(self.environment, whole, out, type_, usable_cores()))

    @staticmethod
    def _compare(table: Table, ours: Path, reference: Path, type_: QuantType) -> bool:
        found = difference(ours, reference)
        table.add_row(
            type_,
            f"{found.equal_tensors} of {found.tensors}",
            f"{found.metadata - len(found.keys)} of {found.metadata}",
            "\n".join(f"{key}: {_REASONS.get(key, values)}" for key, values in found.keys.items()),
        )
        return found.equal_tensors == found.tensors and found.keys.keys() <= _REASONS.keys()


def main(options: argparse.Namespace) -> int:
    if not is_installed(options.upstream):
        sys.exit(f"{options.upstream} holds no upstream converter; make .venv/upstream/.installed")
    sound = True
    for name in options.models:
        with TemporaryDirectory(dir=options.scratch) as place:
            bench = Bench(options.base, options.upstream, Path(place), Console(width=140))
            folder = options.base if name == "270m" else random_1b(options.base, Path(place) / "random")
            sound &= bench.model(f"Gemma 3 {name}", folder, options.types)
    return not sound


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        export_alone(Path(sys.argv[2]), Path(sys.argv[3]), QuantType(sys.argv[4]))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--models", nargs="+", choices=["270m", "1b"], default=["270m", "1b"])
    parser.add_argument("--types", nargs="+", type=QuantType, default=_TYPES)
    parser.add_argument("--upstream", type=Path, default=UPSTREAM, help="upstream's environment")
    parser.add_argument("--scratch", type=Path, help="where files of up to 4 GB may lie for a while")
    sys.exit(main(parser.parse_args()))
