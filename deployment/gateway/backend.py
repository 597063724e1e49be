"""The model behind the gateway: opened, opened anew when it ends, and changed for another while requests go on."""

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from deployment.answers.answer import Answer
from deployment.answers.assistant import Assistant
from registry.errors import GemmillError, ServiceUnavailable
from registry.records import LabelSet

_log = logging.getLogger(__name__)
_TICK = 0.5  # seconds between two looks at the model's process
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0  # seconds before a model that did not open is tried again
_FRESH = 10.0  # seconds for which an answer shows that the model answers
_PROBE = "Is anyone there?"
_HANGS_AFTER = 20.0  # seconds without a sign of life; a long prompt on a slow machine takes less


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a model comes from."""

    name: str  # as clients see it
    open: Callable[[], Assistant]
    revision: Callable[[], str] | None = None  # what is behind an alias now; None where nothing can change
    poll: float = 5.0  # seconds between two looks at it


@dataclass(eq=False)
class _Opened:
    assistant: Assistant
    revision: str
    asked: int = 0  # by so many threads at this moment
    retired: bool = False
    suspect: bool = False  # a request failed though the process runs
    answered: float = field(default=-_FRESH)  # when it did last


class Backend:
    """The model of ``source``, for any number of threads, until ``close``.

    A thread of its own opens the model anew when its process has ended or hangs, and follows the alias: the new model
    is opened beside the old one, takes over, and the old one is closed when its last request is done. Raises as
    ``source`` does.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._wake, self._closed = threading.Event(), threading.Event()
        self._current = self._opened()
        self.openings = 1
        self._tending = threading.Thread(target=self._tend, name="model", daemon=True)
        self._tending.start()

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def labels(self) -> LabelSet | None:
        return self._current.assistant.labels

    @property
    def pid(self) -> int | None:
        return self._current.assistant.pid

    def answer(self, command: str) -> Answer:
        """The answer to ``command``. Raises ServiceUnavailable where the model ended and is not back yet."""
        with self._asked() as assistant:
            return assistant.answer(command)

    def stream(self, command: str) -> Generator[Answer]:
        """The answer as it comes; raises as :meth:`answer` does."""
        with self._asked() as assistant:
            yield from assistant.stream(command)

    @property
    def seen_answering(self) -> bool:
        """Whether the model that serves now answered a moment ago."""
        current = self._current
        return current.assistant.alive and time.monotonic() - current.answered < _FRESH

    def probe(self) -> None:
        """Ask the model something. Raises ServiceUnavailable where it does not answer."""
        self.answer(_PROBE)

    def close(self) -> None:
        """Close the model; what it is still asked fails."""
        self._closed.set()
        self._wake.set()
        self._tending.join()
        self._current.assistant.close()

    @contextmanager
    def _asked(self) -> Iterator[Assistant]:
        with self._lock:
            opened = self._current
            opened.asked += 1
        try:
            if not opened.assistant.alive:
                raise ServiceUnavailable("The model's process has ended; it is being opened anew.")
            yield opened.assistant
            opened.answered = time.monotonic()
        except ServiceUnavailable:
            opened.suspect = True
            self._wake.set()
            raise
        finally:
            with self._lock:
                opened.asked -= 1
                unused = opened.retired and not opened.asked
            if unused:
                opened.assistant.close()

    def _opened(self) -> _Opened:
        revision = self._source.revision() if self._source.revision else ""
        return _Opened(self._source.open(), revision)

    def _tend(self) -> None:
        looked, pause = time.monotonic(), 0.0
        while not self._closed.is_set():
            self._wake.wait(_TICK)
            self._wake.clear()
            try:
                if self._closed.is_set():
                    return
                self._end_what_hangs()
                if not self._current.assistant.alive:
                    _log.warning("The process of %s has ended; opening it anew.", self.name)
                    self._replace()
                elif self._source.revision and time.monotonic() - looked >= self._source.poll:
                    looked = time.monotonic()
                    if self._source.revision() != self._current.revision:
                        self._replace()
                pause = 0.0
            except Exception as error:  # whatever it is, the model must come back
                pause = min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2 * pause))
                said = error if isinstance(error, GemmillError) else f"{type(error).__name__}: {error}."
                _log.warning("%s Trying again in %.1f s.", said, pause)
                self._closed.wait(pause)

    def _end_what_hangs(self) -> None:
        current = self._current
        if current.suspect and current.assistant.alive:
            current.suspect = False
            if not current.assistant.responds(_HANGS_AFTER) and not self._closed.is_set():
                _log.warning("The process of %s runs, but does not react; ending it.", self.name)
                current.assistant.kill()

    def _replace(self) -> None:
        new = self._opened()
        with self._lock:
            old, self._current = self._current, new
            old.retired = True
            unused = not old.asked
        self.openings += 1
        _log.info("%s is open%s.", self.name, f", version {new.revision}" if new.revision else "")
        if unused:
            old.assistant.close()
