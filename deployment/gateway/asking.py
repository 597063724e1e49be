"""How a route asks the model: in line, within the deadline, counted."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from functools import partial
from http import HTTPStatus

from pydantic import ValidationError

from deployment.answers.answer import Answer
from deployment.gateway.backend import Backend
from deployment.gateway.bodies import Chat, checked_command
from deployment.gateway.faults import as_refused
from deployment.gateway.line import Line
from deployment.gateway.metrics import Metrics
from deployment.gateway.problems import Refused, invalid_body, problem
from deployment.gateway.settings import GatewaySettings
from registry.errors import GemmillError

_log = logging.getLogger(__name__)


class Asking:
    """The model for routes. Every method raises Refused where a request gets no answer."""

    def __init__(self, backend: Backend, line: Line, metrics: Metrics, settings: GatewaySettings) -> None:
        self._backend, self._line, self._metrics, self._settings = backend, line, metrics, settings

    async def answer(self, command: str) -> Answer:
        [answer] = await self.answer_many([command])
        return answer

    async def answer_many(self, commands: Sequence[str]) -> list[Answer]:
        """The answers in the order of ``commands``, which take their turns with those of other requests."""
        left = iter(list(enumerate(commands)))
        answers: dict[int, Answer] = {}

        async def work() -> None:
            for place, command in left:
                with self._told(command):
                    answers[place] = await self._line.run(partial(self._backend.answer, command))
                self._count(answers[place])

        with self._line.place(), self._deadline():
            async with asyncio.timeout(self._settings.timeout), _Group() as group:
                for _ in range(min(self._settings.parallel, len(commands))):
                    group.create_task(work())
        return [answers[place] for place in range(len(commands))]

    async def stream(self, command: str) -> AsyncGenerator[Answer]:
        """The answer as it comes, the whole one last."""
        until = asyncio.get_running_loop().time() + self._settings.timeout
        with self._line.place(), self._told(command):
            async with aclosing(self._line.stream(partial(self._backend.stream, command))) as answers:
                while True:
                    with self._deadline():
                        async with asyncio.timeout_at(until):
                            answer = await anext(answers, None)
                    if answer is None:
                        return
                    if answer.done:
                        self._count(answer)
                    yield answer

    async def complete(self, chat: Chat) -> Answer:
        """The answer to a chat's last message of the user."""
        text = chat.command
        if text is None:
            raise _unusable("The request cannot be used: messages has none of the user, whose last one is the command.")
        try:
            command = checked_command(text)
        except ValidationError as error:
            faults = [{**fault, "loc": ("body", "messages")} for fault in error.errors()]
            raise _unusable(invalid_body(faults)) from None
        answer = await self.answer(command)
        if answer.failure:
            raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, answer.failure, reason="failure")
        return answer

    async def require_ready(self) -> None:
        """Raise Refused unless the model answers."""
        if self._backend.seen_answering:
            return
        with self._line.place(), self._told(""), self._deadline():
            async with asyncio.timeout(self._settings.timeout):
                await self._line.run(self._backend.probe)

    @contextmanager
    def _told(self, command: str) -> Iterator[None]:
        """An error of the model as clients are told it, and its reason in the log."""
        try:
            yield
        except GemmillError as error:
            said = str(error)
            if not self._settings.log_texts and command and command[:40] in said:
                said = type(error).__name__
            _log.warning("The model did not answer: %s", said)
            raise as_refused(error) from error

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise Refused(
                HTTPStatus.GATEWAY_TIMEOUT,
                f"There was no answer within {self._settings.timeout:g} s; ask again later, or for less at a time.",
                reason="deadline",
            ) from None

    def _count(self, answer: Answer) -> None:
        self._metrics.answered(self._backend.name, answer)
        if self._settings.log_texts:
            _log.info("%s -> %s", answer.command, answer.response or answer.failure)


class _Group(asyncio.TaskGroup):
    """A group whose first error is raised alone."""

    async def __aexit__(self, *raised: object) -> None:  # type: ignore[override]
        try:
            await super().__aexit__(*raised)  # type: ignore[arg-type]
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None


def _unusable(detail: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, detail, reason="body")


async def events(answers: AsyncGenerator[Answer]) -> AsyncGenerator[str]:
    """``answers`` as server-sent events. What goes wrong before the first one is raised, later it is an event."""
    first = await anext(answers)

    async def sent() -> AsyncGenerator[str]:
        async with aclosing(answers):
            yield f"data: {first.model_dump_json()}\n\n"
            try:
                async for answer in answers:
                    yield f"data: {answer.model_dump_json()}\n\n"
            except Refused as refused:
                yield f"event: error\ndata: {problem(refused.status, refused.detail).model_dump_json()}\n\n"

    return sent()
