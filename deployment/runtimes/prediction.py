"""What a model said to a command, and what everything that can answer commands has in common."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from deployment.runtimes.logprobs import TokenLogprobs


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model answered, and its share of the run's wall-clock time: the shares add up to the run.

    ``failure`` says why there is no answer, the text is empty then.
    """

    text: str
    tokens: int  # generated ones, the end of turn included; 0 where a server does not say
    seconds: float
    failure: str = ""
    latency: float | None = None  # seconds from the question to its whole answer; None where it was one of a batch
    first_token: float | None = None  # seconds to the first token, where a server tells
    logprobs: tuple[TokenLogprobs, ...] = ()  # of the text as the model gave it, where they were asked for


class Runtime(Protocol):
    """A model that answers audit commands greedily, opened and closed by ``with``."""

    def answer(self, commands: Sequence[str]) -> list[Prediction]:
        """One prediction for each command, in their order."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Served(Runtime, Protocol):
    """A runtime that gives an answer as it comes, too."""

    @property
    def takes_grammar(self) -> bool:
        """Whether answers are held by a grammar, which has room for any span; else by a JSON Schema, which has not."""
        ...

    def stream(self, command: str) -> Iterator[str | Prediction]:
        """The parts of the answer's text, and the prediction at the end; a server may give that alone."""
        ...


def answers_progress(total: int) -> Progress:
    """A progress bar with the time that is left, for more than one answer and on a terminal only."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=total < 2 or not console.is_terminal,
    )


def answer_concurrently(
    ask: Callable[[str], Prediction], commands: Sequence[str], *, workers: int, description: str
) -> list[Prediction]:
    """Ask for every command with up to ``workers`` at a time. The first error stops the run."""
    started = time.perf_counter()
    predictions = []
    with answers_progress(len(commands)) as progress, ThreadPoolExecutor(workers) as pool:
        task = progress.add_task(description, total=len(commands))
        try:
            for prediction in pool.map(ask, commands):
                predictions.append(prediction)
                progress.advance(task)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return _shares(predictions, time.perf_counter() - started)


def _shares(predictions: list[Prediction], wall_seconds: float) -> list[Prediction]:
    """Scale the overlapping times of concurrent answers to the wall-clock time that they took together."""
    busy = sum(prediction.seconds for prediction in predictions)
    scale = wall_seconds / busy if busy else 0.0
    return [
        replace(
            prediction,
            seconds=prediction.seconds * scale,
            latency=None if prediction.failure else prediction.seconds,
        )
        for prediction in predictions
    ]
