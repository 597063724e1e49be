"""The student's training steps with all tokens of the vocabulary and with those that a plant needs.

    python -m tests.benchmarks.bench_pruned_training BASE PRUNED [--steps 6] [--batch 16]

PRUNED is what ``gemmill prune-vocab BASE PRUNED`` wrote. Both train on the same records of the shipped sample, on the
grid of Q4_0 with AdamW over fp32 weights, in bf16 autocast where this machine is faster in it, the embedding frozen; in
KD steps they are their own teachers. The two take turns, so that a busy machine slows both.
"""

import argparse
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from tasks.quant.types import QuantType
from tasks.training.examples import epoch_batches
from tests.benchmarks.bench_training import Trainee, sample_examples
from tests.benchmarks.child import report, run_child

_KINDS = {"CE": False, "KD": True}


def measure_together(folders: list[Path], steps: int, batch_size: int) -> None:
    """Seconds of a step for each kind, by folder, as medians."""
    batches = [
        list(epoch_batches(sample_examples(folder), batch_size=batch_size, pad_id=0, seed=1, epoch=0))[: steps + 1]
        for folder in folders
    ]
    seconds = {}
    for kind, distilled in _KINDS.items():
        trainees = [Trainee(folder, QuantType.Q4_0, teacher=folder if distilled else None) for folder in folders]
        for step in zip(*batches, strict=True):
            for trainee, batch in zip(trainees, step, strict=True):
                trainee.step(batch)
        seconds[kind] = [median(trainee.seconds[1:]) for trainee in trainees]
    report(**seconds)


def measure_memory(folder: Path, distilled: bool, batch_size: int) -> None:
    """The peak memory of two steps."""
    trainee = Trainee(folder, QuantType.Q4_0, teacher=folder if distilled else None)
    batches = epoch_batches(sample_examples(folder), batch_size=batch_size, pad_id=0, seed=1, epoch=0)
    for batch, _ in zip(batches, range(2), strict=False):
        trainee.step(batch)
    report()


def main(options: argparse.Namespace) -> None:
    folders = (options.base, options.pruned)
    seconds = run_child(__spec__.name, "seconds", *folders, options.steps, options.batch)
    table = Table(title=f"training step with QAT, {options.batch} records", title_justify="left")
    for column in ("loss", "all, s", "pruned, s", "ratio", "all, GiB", "pruned, GiB", "ratio"):
        table.add_column(column, justify="left" if column == "loss" else "right")
    for kind, distilled in _KINDS.items():
        memory = [
            run_child(__spec__.name, "memory", folder, folder, int(distilled), options.batch)["peak_gib"]
            for folder in folders
        ]
        figures = [figure for pair in (seconds[kind], memory) for figure in (*pair, pair[0] / pair[1])]
        table.add_row(kind, *(f"{figure:.2f}" for figure in figures))
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("base", type=Path, nargs="?")
    parser.add_argument("pruned", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=16)
    chosen = parser.parse_args()
    if chosen.child:
        figure, *paths, first, last = chosen.child
        if figure == "seconds":
            measure_together([Path(path) for path in paths], int(first), int(last))
        else:
            measure_memory(Path(paths[0]), bool(int(first)), int(last))
    elif chosen.pruned:
        main(chosen)
    else:
        parser.error("name the folders of a base and of the same base pruned")
