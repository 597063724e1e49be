"""Servers that answer commands: Ollama, and any that speaks OpenAI's protocol."""

import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from deployment.prompts.turns import as_plain_text
from deployment.runtimes.decoding import ANSWER_SECONDS, FREE, GREEDY, SEED, Decoding, sampling
from deployment.runtimes.logprobs import TokenLogprobs, token_logprobs
from deployment.runtimes.ollama import OllamaClient
from deployment.runtimes.openai import Completion, OpenAiClient
from deployment.runtimes.prediction import Prediction, answer_concurrently
from registry.errors import NoAnswer

_GREEDY = {"temperature": 0.0}
_LLAMA_GREEDY = {**GREEDY, "cache_prompt": False}  # so that no answer depends on what was asked before
_NO_BOUND = -1  # but the schema's own
_TIMEOUT = 120.0  # seconds for one answer; an edge device may have to load the model first


class OllamaRuntime:
    """The model ``name`` on an Ollama server, with the template, system text and limits of its own Modelfile.

    ``host`` None means ``OLLAMA_HOST`` or the local default. Raises as :class:`OllamaClient` does.
    """

    def __init__(
        self,
        name: str,
        *,
        host: str | None = None,
        parallel: int = 1,
        decoding: Decoding = FREE,
        answer_seconds: float = ANSWER_SECONDS,
        temperature: float = 0.0,
    ) -> None:
        self._name = name
        self._sampling = {**_GREEDY, **sampling(temperature)}
        self._decoding = decoding
        self._client = OllamaClient(host, timeout=min(_TIMEOUT, answer_seconds))
        self._parallel = parallel

    @property
    def takes_grammar(self) -> bool:
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def answer(self, commands: Sequence[str]) -> list[Prediction]:
        """The answers, ``parallel`` at a time."""
        return answer_concurrently(
            self._answer_one, commands, workers=self._parallel, description=f"asking {self._name}"
        )

    def stream(self, command: str) -> Iterator[str | Prediction]:
        """The parts of the answer's text as they come, and the prediction at the end."""
        started, text = time.perf_counter(), ""
        logprobs: tuple[TokenLogprobs, ...] = ()
        try:
            for part in self._client.generate_parts(*self._asked(command)):
                text += part.response
                logprobs += token_logprobs(part.logprobs)
                if part.done:
                    yield self._prediction(command, text, logprobs, part.eval_count, started)
                elif part.response:
                    yield part.response
        except NoAnswer as error:
            yield _no_answer(error, started)

    def _answer_one(self, command: str) -> Prediction:
        started = time.perf_counter()
        try:
            reply = self._client.generate(*self._asked(command))
        except NoAnswer as error:
            return _no_answer(error, started)
        logprobs = token_logprobs(reply.logprobs)
        return self._prediction(command, reply.response, logprobs, reply.eval_count, started)

    def _asked(self, command: str) -> tuple[str, str, Mapping[str, Any], Mapping[str, Any]]:
        schema = self._decoding.json_schema(command)
        options = self._sampling if schema is None else {**self._sampling, "num_predict": _NO_BOUND}
        fields = {} if schema is None else {"format": schema}
        if likeliest := self._decoding.logprobs:
            fields |= {"logprobs": True, "top_logprobs": likeliest}
        return self._name, as_plain_text(command), options, fields

    def _prediction(
        self, command: str, text: str, logprobs: tuple[TokenLogprobs, ...], tokens: int | None, started: float
    ) -> Prediction:
        return Prediction(
            text=self._decoding.finished(command, text, logprobs),
            tokens=tokens or 0,
            seconds=time.perf_counter() - started,
            logprobs=logprobs,
        )


class OpenAiRuntime:
    """A model on an OpenAI-compatible server, with the template and limits that it has there.

    ``url`` and what is raised are those of :class:`OpenAiClient`. A llama-server takes all that llama.cpp does, another
    server a JSON Schema; an answer that the model did not end itself is none.
    """

    def __init__(
        self,
        url: str,
        *,
        parallel: int = 1,
        decoding: Decoding = FREE,
        answer_seconds: float = ANSWER_SECONDS,
        temperature: float = 0.0,
    ) -> None:
        self._temperature = temperature
        self._client = OpenAiClient(url, seconds=answer_seconds)
        self._parallel = parallel
        self._decoding = decoding

    @property
    def takes_grammar(self) -> bool:
        return self._is_llama

    def __enter__(self) -> Self:
        try:
            self._model = self._client.model()
            self._is_llama = self._client.is_llama_server()
        except BaseException:
            self._client.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def answer(self, commands: Sequence[str]) -> list[Prediction]:
        """The answers, ``parallel`` at a time."""
        return answer_concurrently(
            self._answer_one, commands, workers=self._parallel, description=f"asking {self._client.address}"
        )

    def stream(self, command: str) -> Iterator[str | Prediction]:
        """The parts of the answer's text as they come, and the prediction at the end."""
        started = time.perf_counter()
        try:
            for part in self._client.complete_parts(*self._asked(command)):
                yield part if isinstance(part, str) else self._prediction(command, part, started)
        except NoAnswer as error:
            yield _no_answer(error, started)

    def _answer_one(self, command: str) -> Prediction:
        started = time.perf_counter()
        try:
            reply = self._client.complete(*self._asked(command))
        except NoAnswer as error:
            return _no_answer(error, started)
        return self._prediction(command, reply, started)

    def _asked(self, command: str) -> tuple[str, str, Mapping[str, Any]]:
        return self._model, as_plain_text(command), self._fields(command)

    def _prediction(self, command: str, reply: Completion, started: float) -> Prediction:
        choice, tokens = reply.choices[0], reply.tokens
        failure = _not_ended(choice.finish_reason, tokens)
        logprobs = token_logprobs(choice.logprobs and choice.logprobs.content)
        return Prediction(
            text="" if failure else self._decoding.finished(command, choice.message.content or "", logprobs),
            tokens=tokens,
            seconds=time.perf_counter() - started,
            failure=failure,
            logprobs=logprobs,
        )

    def _fields(self, command: str) -> Mapping[str, Any]:
        asked: dict[str, Any] = {}
        if likeliest := self._decoding.logprobs:
            asked = {"logprobs": True, "top_logprobs": likeliest}
        if self._is_llama:
            return {**asked, **_LLAMA_GREEDY, **sampling(self._temperature), **self._decoding.llama_cpp(command)}
        asked["temperature"] = self._temperature
        schema = self._decoding.json_schema(command)
        if schema is not None:
            # not as "strict", for which OpenAI wants every property required
            asked["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        return asked | ({"seed": SEED} if self._temperature else {})


def _no_answer(error: NoAnswer, started: float) -> Prediction:
    return Prediction(text="", tokens=0, seconds=time.perf_counter() - started, failure=str(error))


def _not_ended(reason: str | None, tokens: int) -> str:
    """Why an answer is none; empty where the model ended it."""
    if reason == "stop":
        return ""
    if reason == "length":
        return f"The answer did not end within {tokens:,} tokens, the server's limit."
    return f"The server ended the answer itself: its finish_reason is {reason!r}."
