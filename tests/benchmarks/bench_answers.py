"""What holding answers is worth and what it costs: free, schema and grounded answers of one model.

    python -m tests.benchmarks.bench_answers MODEL DATA [--words 10 30 100 300] [--commands 40] [--context 4096]

MODEL is a package's folder or a .gguf file with its Modelfile, labels.toml and answers.json beside it; DATA a folder
with test.jsonl. The first table scores the answers to DATA's test split; the second times commands of so many words,
made by joining DATA's own, on one thread of llama.cpp: each is asked freely and grounded in turn, four times, and where
both gave the same text their least times are compared, so that a longer answer is not taken for a slower grammar. The
third does the same for grounded answers without and with what tells how sure they are. Last, the longest command that a
record may have is answered at --context.
"""

import argparse
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from data_checks.contract import read_jsonl
from deployment.packages.found import FoundModel, find_model
from deployment.runtimes.decoding import Mode
from deployment.runtimes.llama_server import LlamaServer
from deployment.runtimes.logprobs import LIKELIEST
from deployment.runtimes.prediction import Prediction
from registry.errors import UsageError
from registry.records import MAX_COMMAND, LabelSet, Record
from tasks.evaluation.metrics import score
from tests.benchmarks.bench_device import peak_mib

_ROUNDS = 2  # of each command, in each of which every server is asked twice


def serve(found: FoundModel, mode: Mode, *, context: int, logprobs: int = 0) -> LlamaServer:
    decoding = found.decoding(mode, logprobs=logprobs)
    return LlamaServer(Path(found.spec), prompt=found.prompt, threads=1, slots=1, context=context, decoding=decoding)


def quality_table(found: FoundModel, records: Sequence[Record], labels: LabelSet, *, context: int) -> Table:
    """Every mode on the same rows, asked one at a time."""
    table = Table(title=f"{Path(found.spec).name}, {len(records):,} records, one thread", title_justify="left")
    for column in ("decoding", "JSON", "intent", "entity F1", "exact", "OOS recall", "precision", "median s", "p95 s"):
        table.add_column(column, justify="left" if column == "decoding" else "right")
    for mode in Mode:
        with serve(found, mode, context=context) as server:
            predictions = [server.answer([record.command])[0] for record in records]
        metrics = score(records, predictions, labels)
        seconds = sorted(prediction.seconds for prediction in predictions)
        shares = (
            metrics.json_validity, metrics.intent_accuracy, metrics.entity_f1, metrics.exact_match, metrics.oos_recall,
            metrics.oos_precision,
        )  # fmt: skip
        table.add_row(
            mode,
            *("–" if share is None else f"{100 * share:.1f} %" for share in shares),
            f"{median(seconds):.4f}",
            f"{seconds[int(0.95 * len(seconds))]:.4f}",
        )
    return table


def joined(commands: Sequence[str], words: int, count: int) -> Iterator[str]:
    """``count`` texts of so many words."""
    flow = itertools.cycle(word for command in commands for word in command.split())
    for _ in range(count):
        yield " ".join(itertools.islice(flow, words))


def cost_table(
    servers: Mapping[str, LlamaServer], records: Sequence[Record], counts: Sequence[int], *, each: int
) -> Table:
    """The time of two servers' answers by the length of the command; ``servers`` by how they are called."""
    commands = [record.command for record in records]
    cheap, dear = servers
    table = Table(title=f"{dear} by the words of a command, {each} commands each", title_justify="left")
    for column in ("words", f"{cheap} s", f"{dear} s", "same answers", "ratio there", "difference there, ms"):
        table.add_column(column, justify="right")
    with servers[cheap] as one, servers[dear] as other:
        for words in counts:
            pairs = [_fastest(one, other, text) for text in joined(commands, words, each)]
            same = [(one.seconds, other.seconds) for one, other in pairs if one.text == other.text]
            table.add_row(
                str(words),
                f"{median(one.seconds for one, _ in pairs):.4f}",
                f"{median(other.seconds for _, other in pairs):.4f}",
                f"{len(same)} of {len(pairs)}",
                f"{median(b / a for a, b in same):.3f}" if same else "–",
                f"{1000 * median(b - a for a, b in same):+.1f}" if same else "–",
            )
    return table


def _fastest(one: LlamaServer, other: LlamaServer, command: str) -> tuple[Prediction, Prediction]:
    """The answers of two servers with the least time of several each, which a busy machine changes least."""
    asked = [_timed(server, command) for _ in range(_ROUNDS) for server in (one, other, other, one)]
    return min(asked[0::4] + asked[3::4], key=_seconds), min(asked[1::4] + asked[2::4], key=_seconds)


def _seconds(prediction: Prediction) -> float:
    return prediction.seconds


def _timed(server: LlamaServer, command: str) -> Prediction:
    started = time.perf_counter()
    [prediction] = server.answer([command])
    return replace(prediction, seconds=time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--words", type=int, nargs="+", default=[10, 30, 100, 300])
    parser.add_argument("--commands", type=int, default=40)
    parser.add_argument("--context", type=int, default=4096)
    arguments = parser.parse_args()
    found = find_model(arguments.model, labels=None)
    if found.labels is None:
        raise UsageError(f"{arguments.model} has no labels.toml beside it; give a package.")
    records, problems = read_jsonl(arguments.data / "test.jsonl", found.labels)
    if problems:
        raise UsageError(f"{arguments.data} does not fit the model's label set.")
    console = Console(width=150)
    console.print(quality_table(found, records, found.labels, context=arguments.context))
    grounded = partial(serve, found, Mode.GROUNDED, context=arguments.context)
    for pair in (
        {"free": serve(found, Mode.FREE, context=arguments.context), "grounded": grounded()},
        {"grounded": grounded(), "with confidence": grounded(logprobs=LIKELIEST)},
    ):
        console.print(cost_table(pair, records, arguments.words, each=arguments.commands))
    longest = " ".join(record.command for record in records)[:MAX_COMMAND]
    with serve(found, Mode.GROUNDED, context=arguments.context) as server:
        answer = _timed(server, longest)
        held = peak_mib(server.pid)
    console.print(
        f"{len(longest):,} characters: {answer.failure or f'{answer.tokens} tokens'}, {answer.seconds:.2f} s, "
        f"peak {held:.0f} MiB"
    )


if __name__ == "__main__":
    main()
