"""How fast a GGUF file answers audit commands in llama.cpp, one after the other and greedily, as a device asks it.

    python -m tests.benchmarks.bench_device FILE.gguf... [--data FILE.jsonl] [--rows N] [--threads 1 2]
                                            [--variants NAME...] [--rounds 3] [--instruction FILE] [--json FILE]

In each round every file is loaded and then asked every command in turn with the others, so that a busy machine slows
all alike. Below each median stands its ratio to the first file on the same command: the median of those ratios. `whole`
is the time of an answer, `JSON` that until its last brace arrived, `peak MiB` the most memory that the server's process
held, `same` the share of answers that are the first file's. `--variants` measures each file under other settings too.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from data_checks.contract import read_jsonl
from data_checks.sample import SAMPLE_DIR
from deployment.prompts.prompt import Prompt
from deployment.runtimes.llama_server import _GREEDY, LlamaServer
from registry.errors import UsageError
from registry.files import write_text
from registry.records import same_answer
from tests.benchmarks.device_variants import VARIANTS, Variant

_CONTEXT = 1024  # a package's num_ctx
_MAX_TOKENS = 256  # a package's num_predict
_WIDTH = 100  # columns that the table needs
_LAST_REQUEST = {"Connection": "close"}  # which is what llama.cpp does after a stream, without saying so
_EVENT = "data: "  # of a stream of server-sent events


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer and its times in seconds from the request on, by the client's clock."""

    text: str
    first: float  # token
    closed: float  # where a JSON object was complete, else the whole answer
    whole: float
    timings: Mapping[str, float]  # of llama.cpp: prompt_n, prompt_ms, predicted_n, predicted_ms, cache_n, draft_n, …

    @property
    def decoded_per_second(self) -> float:
        """The first token comes with the prompt's batch."""
        return 1000 * (self.timings["predicted_n"] - 1) / self.timings["predicted_ms"]

    @property
    def prompt_per_second(self) -> float:
        """Of the tokens that were not in the cache."""
        return 1000 * self.timings["prompt_n"] / self.timings["prompt_ms"]


@dataclass(kw_only=True)
class Candidate:
    """A file under one variant on a number of threads, and what was measured of it."""

    gguf: Path
    variant: str
    threads: int
    load: list[float] = field(default_factory=list)  # seconds, one a round
    answers: list[Answer] = field(default_factory=list)  # of all rounds, in the order of the commands
    peak_mib: float = 0.0

    @contextmanager
    def serving(self, prompt: Prompt) -> Iterator[LlamaServer]:
        server = LlamaServer(
            self.gguf, prompt=prompt, threads=self.threads, slots=1, context=_CONTEXT,
            parameters=VARIANTS[self.variant].parameters,
        )  # fmt: skip
        started = time.perf_counter()
        with server:
            self.load.append(time.perf_counter() - started)
            yield server
            self.peak_mib = max(self.peak_mib, peak_mib(server.pid))

    def describe(self) -> str:
        """File, threads, variant and, where llama.cpp drafted, how many drafted tokens were right."""
        drafted = sum(answer.timings.get("draft_n", 0) for answer in self.answers)
        accepted = sum(answer.timings.get("draft_n_accepted", 0) for answer in self.answers)
        return "\n".join([
            self.gguf.stem, self.variant, f"{self.threads} thread{'s' if self.threads > 1 else ''}",
            *([f"{accepted:.0f} of {drafted:.0f} drafts"] if drafted else []),
        ])  # fmt: skip

    def ask(self, server: LlamaServer, command: str) -> None:
        self.answers.append(ask(server, command, VARIANTS[self.variant]))


def ask(server: LlamaServer, command: str, variant: Variant) -> Answer:
    """One greedy answer, read as it is made. Raises UsageError for one of a single token, which has no decoding."""
    body = {
        "prompt": server.tokenize_prompt(command), "n_predict": _MAX_TOKENS, "stream": True,
        **_GREEDY, "cache_prompt": variant.cache_prompt,
    }  # fmt: skip
    text, first, closed, timings = "", None, None, {}
    started = time.perf_counter()
    with server._client.stream("POST", "/completion", json=body, headers=_LAST_REQUEST) as response:
        for line in response.raise_for_status().iter_lines():
            if not line.startswith(_EVENT):
                continue
            event = json.loads(line.removeprefix(_EVENT))
            text += event["content"]
            now = time.perf_counter() - started
            if text and first is None:
                first = now
            if closed is None and "}" in event["content"] and is_complete_object(text):
                closed = now
            timings = event.get("timings", timings)
    whole = time.perf_counter() - started
    if timings["predicted_n"] < 2:
        raise UsageError(f"{server._gguf} answers {command!r} with {text!r} alone; measure a file that was trained.")
    return Answer(text=text, first=first or whole, closed=closed or whole, whole=whole, timings=timings)


def is_complete_object(text: str) -> bool:
    """Whether ``text`` begins with a whole JSON object, white space aside."""
    text = text.lstrip()
    try:
        json.JSONDecoder().raw_decode(text)
    except ValueError:
        return False
    return text.startswith("{")


def peak_mib(process: int) -> float:
    """The most memory that a process of this machine (Linux) ever held, pages of mapped files among it."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def measure(candidates: Sequence[Candidate], prompt: Prompt, commands: Sequence[str], rounds: int) -> None:
    """Ask every candidate every command, in turn, in each round after a fresh start; odd turns go backwards."""
    for _ in range(rounds):
        with ExitStack() as stack:
            serving = [(candidate, stack.enter_context(candidate.serving(prompt))) for candidate in candidates]
            for number, command in enumerate(commands):
                for candidate, server in serving[:: -1 if number % 2 else 1]:
                    candidate.ask(server, command)


_FIGURES: dict[str, tuple[Callable[[Answer], float], str]] = {
    "first token, ms": (lambda answer: 1000 * answer.first, "{:.0f}"),
    "prompt tok/s": (lambda answer: answer.prompt_per_second, "{:.0f}"),
    "decode tok/s": (lambda answer: answer.decoded_per_second, "{:.1f}"),
    "JSON, s": (lambda answer: answer.closed, "{:.3f}"),
    "whole, s": (lambda answer: answer.whole, "{:.3f}"),
}


def table(candidates: Sequence[Candidate], title: str) -> Table:
    """A row for each candidate, with ratios to the first one on as many threads."""
    found = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, leading=1
    )
    for column in ("file", "MB", "load, s", *_FIGURES, "peak MiB", "same"):
        found.add_column(column, justify="left" if column == "file" else "right", no_wrap=column == "file")
    for candidate in candidates:
        first = next(other for other in candidates if other.threads == candidate.threads)
        same = [same_answer(a.text, b.text) for a, b in zip(candidate.answers, first.answers, strict=True)]
        found.add_row(
            candidate.describe(),
            _cell([candidate.gguf.stat().st_size / 1e6], [first.gguf.stat().st_size / 1e6], "{:.1f}"),
            _cell(candidate.load, first.load, "{:.2f}"),
            *(
                _cell([figure(answer) for answer in candidate.answers], list(map(figure, first.answers)), shown)
                for figure, shown in _FIGURES.values()
            ),
            _cell([candidate.peak_mib], [first.peak_mib], "{:.0f}"),
            f"{100 * sum(same) / len(same):.0f} %",
        )
    return found


def medians(candidate: Candidate) -> dict[str, object]:
    """What a program may want to know of one row of the table."""
    return {
        "file": candidate.gguf.stem, "variant": candidate.variant, "threads": candidate.threads,
        "bytes": candidate.gguf.stat().st_size, "load, s": median(candidate.load), "peak MiB": candidate.peak_mib,
        **{name: median(map(figure, candidate.answers)) for name, (figure, _) in _FIGURES.items()},
    }  # fmt: skip


def _cell(values: Sequence[float], firsts: Sequence[float], shown: str) -> str:
    ratio = median(value / first for value, first in zip(values, firsts, strict=True))
    return f"{shown.format(median(values))}\n×{ratio:.2f}"


def main(options: argparse.Namespace) -> None:
    records, _ = read_jsonl(options.data)
    commands = [record.command for record in records[: options.rows]]
    prompt = Prompt(instruction=options.instruction.read_text(encoding="utf-8") if options.instruction else "")
    measured: list[Candidate] = []
    for threads in options.threads:
        candidates = [
            Candidate(gguf=gguf, variant=variant, threads=threads)
            for gguf, variant in product(options.files, options.variants)
        ]
        measure(candidates, prompt, commands, options.rounds)
        measured += candidates
    title = f"{len(commands)} commands, {options.rounds} rounds; × the first row on as many threads"
    console = Console()
    console.width = max(console.width, _WIDTH)
    console.print(table(measured, title))
    if options.json:
        write_text(options.json, json.dumps([medians(candidate) for candidate in measured], indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.gguf")
    parser.add_argument("--data", type=Path, default=SAMPLE_DIR / "test.jsonl")
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--variants", nargs="+", default=["plain"], choices=[*VARIANTS])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the medians to this file")
    parser.add_argument("--instruction", type=Path, help="a text file that goes before each command")
    main(parser.parse_args())
