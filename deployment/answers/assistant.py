"""The assistant: a model that a program asks, one command or many, at once or as the answer comes."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self

from deployment.answers.answer import Answer
from deployment.answers.rules import default_rules
from deployment.answers.schema import shortened
from deployment.packages.found import find_model
from deployment.runtimes.decoding import ANSWER_SECONDS, AnswerLimits, Mode
from deployment.runtimes.llama_server import LlamaServer
from deployment.runtimes.opened import open_served
from deployment.runtimes.prediction import Prediction
from registry.cores import usable_cores
from registry.records import LabelSet

_SMALL = 32 << 20  # bytes of a file for which a second thread costs more than it saves, by far on a busy machine


class Assistant:
    """Answers audit commands, from opening to ``close``, or in a ``with`` or ``async with`` block.

    ``model`` is a package's folder, a ``.gguf`` file, ``ollama:NAME`` or the address of a llama-server or of any
    OpenAI-compatible server. ``decoding`` is "grounded", "schema" or "free"; None takes
    "grounded" where the model's labels are known, from its package or ``labels``, and "free" elsewhere. A file
    answers ``parallel`` commands at a time on ``threads`` cores, 0 for all that are of use. An answer is given up after
    ``answer_seconds``. A grounded one tells how sure it is where the package was calibrated, which takes time;
    ``confidence`` False leaves it out. An instance may be shared by threads.

    Raises UsageError for a model that cannot be used, ServiceUnavailable for a server that is out of reach; both are
    a :class:`GemmillError`. A command that gets no answer raises nothing: its answer has a ``failure``.
    """

    def __init__(
        self,
        model: str | PathLike[str],
        *,
        decoding: Mode | str | None = None,
        labels: str | PathLike[str] | None = None,
        threads: int = 0,
        parallel: int = 1,
        answer_seconds: float = ANSWER_SECONDS,
        confidence: bool = True,
    ) -> None:
        self._found = find_model(str(model), labels=Path(labels) if labels else None)
        if decoding is None:
            decoding = Mode.FREE if self._found.labels is None else Mode.GROUNDED
        self.decoding = Mode(decoding)
        limits = self._found.limits or AnswerLimits()
        rules = self._found.rules
        self._doubt = rules.doubt if rules and confidence and self.decoding == Mode.GROUNDED else None
        self._stack = ExitStack()
        self._runtime = self._stack.enter_context(
            open_served(
                self._found.spec,
                prompt=self._found.prompt,
                threads=threads or _threads(self._found.spec),
                parallel=parallel,
                context=limits.num_ctx,
                max_new_tokens=limits.num_predict,
                decoding=self._found.decoding(self.decoding, logprobs=None if confidence else 0),
                answer_seconds=answer_seconds,
            )
        )

    @property
    def labels(self) -> LabelSet | None:
        """Intents and entity types of the model, where they are known."""
        return self._found.labels

    @property
    def pid(self) -> int | None:
        """Of the model's process; None for a model that a server holds."""
        return self._runtime.pid if isinstance(self._runtime, LlamaServer) else None

    @property
    def alive(self) -> bool:
        """Whether the model's process runs; that of a server is not looked at."""
        return not isinstance(self._runtime, LlamaServer) or self._runtime.process.alive

    def responds(self, seconds: float) -> bool:
        """Whether the model's process reacts within ``seconds``, however busy it is; that of a server is not asked."""
        return not isinstance(self._runtime, LlamaServer) or self._runtime.responds(seconds)

    def kill(self) -> None:
        """End the model's process at once, though it hangs: what it is asked fails. A server is let be."""
        if isinstance(self._runtime, LlamaServer):
            self._runtime.process.kill()

    def close(self) -> None:
        """End the model's process, or the connection to its server."""
        self._stack.close()

    def answer(self, command: str) -> Answer:
        """The answer to ``command``."""
        return self.answer_many([command])[0]

    def answer_many(self, commands: Sequence[str]) -> list[Answer]:
        """The answers in the order of ``commands``, with a progress bar on a terminal."""
        predictions = self._runtime.answer(commands)
        return [self._whole(command, prediction) for command, prediction in zip(commands, predictions, strict=True)]

    def stream(self, command: str) -> Iterator[Answer]:
        """The answer as it comes: one for each field that has become certain, and the whole one, which is ``done``."""
        text, shown = "", Answer.so_far(command, "", mode=self.decoding)
        for item in self._runtime.stream(command):
            if not isinstance(item, str):
                yield self._whole(command, item)
                return
            text += item
            now = Answer.so_far(command, text, mode=self.decoding)
            if now != shown:
                shown = now
                yield now

    async def answer_async(self, command: str) -> Answer:
        """:meth:`answer` without blocking the event loop."""
        return await asyncio.to_thread(self.answer, command)

    async def answer_many_async(self, commands: Sequence[str]) -> list[Answer]:
        """:meth:`answer_many` without blocking the event loop."""
        return await asyncio.to_thread(self.answer_many, commands)

    async def stream_async(self, command: str) -> AsyncIterator[Answer]:
        """:meth:`stream` without blocking the event loop."""
        answers = self.stream(command)
        while (answer := await asyncio.to_thread(next, answers, None)) is not None:
            yield answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    def _whole(self, command: str, prediction: Prediction) -> Answer:
        return Answer.of(command, prediction, mode=self.decoding, longest=self._longest(command), doubt=self._doubt)

    def _longest(self, command: str) -> int | None:
        """Words of a value at the most where the server holds answers by a schema and the command is long."""
        if self.decoding != Mode.GROUNDED or self._runtime.takes_grammar or self._found.labels is None:
            return None
        return shortened(command, self._found.rules or default_rules(self._found.labels))


def _threads(spec: str) -> int:
    file = Path(spec)
    return 1 if file.is_file() and file.stat().st_size < _SMALL else usable_cores()
