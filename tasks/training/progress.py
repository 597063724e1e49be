"""Progress of long work: a bar with an ETA on a terminal, a log line from time to time elsewhere."""

import logging
import sys
import time
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

logger = logging.getLogger(__name__)
_LOG_SECONDS = 30


class Progress:
    """Counts steps of known total; ``advance`` takes the figure to show beside the bar. Silent unless ``shown``."""

    def __init__(self, title: str, total: int, *, done: int = 0, shown: bool = True) -> None:
        self._shown = shown
        self._title, self._total, self._done, self._first = title, total, done, done
        self._started = self._logged = time.monotonic()
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            disable=not (shown and sys.stderr.isatty()),
        )
        self._task = self._bar.add_task(title, total=total, completed=done, loss=float("nan"))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, loss: float) -> None:
        self._done += 1
        self._bar.update(self._task, advance=1, loss=loss)
        now = time.monotonic()
        if self._shown and self._bar.disable and (now - self._logged >= _LOG_SECONDS or self._done == self._total):
            self._logged = now
            remaining = (now - self._started) / (self._done - self._first) * (self._total - self._done)
            logger.info(
                "%s: step %d of %d, loss %.3f, ETA %s",
                self._title, self._done, self._total, loss, timedelta(seconds=round(remaining)),
            )  # fmt: skip
