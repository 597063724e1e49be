"""Servers that answer commands: Ollama, and a gateway by HTTP."""

import json
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import httpx

from deployment.prompts.turns import as_plain_text
from deployment.runtimes.decoding import FREE, Decoding
from deployment.runtimes.ollama import OllamaClient
from deployment.runtimes.prediction import Prediction, answer_concurrently
from registry.errors import NoAnswer, ServiceUnavailable, UsageError
from registry.urls import is_this_machine, masked

_GREEDY = {"temperature": 0.0}
_NO_BOUND = -1  # but the schema's own
_SHOWN = 80  # characters of an answer that is none
_TIMEOUT = 120.0  # seconds for one answer; an edge device may have to load the model first


class OllamaRuntime:
    """The model ``name`` on an Ollama server, with the template, system text and limits of its own Modelfile.

    ``host`` None means ``OLLAMA_HOST`` or the local default. Raises as :class:`OllamaClient` does.
    """

    def __init__(self, name: str, *, host: str | None = None, parallel: int = 1, decoding: Decoding = FREE) -> None:
        self._name = name
        self._decoding = decoding
        self._client = OllamaClient(host, timeout=_TIMEOUT)
        self._parallel = parallel

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def answer(self, commands: Sequence[str]) -> list[Prediction]:
        """Greedy answers, ``parallel`` at a time."""
        return answer_concurrently(
            self._answer_one, commands, workers=self._parallel, description=f"asking {self._name}"
        )

    def stream(self, command: str) -> Iterator[str | Prediction]:
        """The answer, whole."""
        yield self._answer_one(command)

    def _answer_one(self, command: str) -> Prediction:
        started = time.perf_counter()
        schema = self._decoding.json_schema(command)
        options = _GREEDY if schema is None else {**_GREEDY, "num_predict": _NO_BOUND}
        try:
            reply = self._client.generate(self._name, as_plain_text(command), options, schema)
        except NoAnswer as error:
            return Prediction(text="", tokens=0, seconds=time.perf_counter() - started, failure=str(error))
        return Prediction(
            text=self._decoding.finished(reply.response or ""),
            tokens=reply.eval_count or 0,
            seconds=time.perf_counter() - started,
        )


class HttpRuntime:
    """A gateway: ``POST {url}/answer`` takes ``{"command": str}`` and returns the record contract's response.

    The whole body of a 200 response is the answer. Raises ServiceUnavailable at any other status and where no answer
    has a form that a model behind a gateway can give, UsageError for a URL that names no host.
    """

    def __init__(self, url: str, *, parallel: int = 1) -> None:
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise UsageError(f"MODEL {url!r} is no URL; write http://HOST:PORT, a password percent-encoded.") from error
        if not address.host:
            raise UsageError(f"MODEL {url!r} names no host; write http://HOST:PORT.")
        self._address = address.copy_with(path=f"{address.path.rstrip('/')}/answer")
        self._url = masked(str(self._address))
        self._parallel = parallel

    def __enter__(self) -> Self:
        self._client = httpx.Client(timeout=_TIMEOUT, trust_env=not is_this_machine(self._address.host))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def answer(self, commands: Sequence[str]) -> list[Prediction]:
        """The gateway's answers, ``parallel`` at a time."""
        predictions = answer_concurrently(
            self._answer_one, commands, workers=self._parallel, description=f"asking {self._url}"
        )
        if predictions and all(_is_foreign(prediction.text) for prediction in predictions):
            said = predictions[0].text.strip()[:_SHOWN] or "nothing"
            raise ServiceUnavailable(
                f"{self._url} is no gateway: none of its {len(predictions)} answers is that of a model, the first is "
                f'{said!r}. It should take {{"command": …}} and give {{"intent": …, "entities": …}}.'
            )
        return predictions

    def stream(self, command: str) -> Iterator[str | Prediction]:
        """The answer, whole."""
        yield self._answer_one(command)

    def _answer_one(self, command: str) -> Prediction:
        started = time.perf_counter()
        try:
            response = self._client.post(self._address, json={"command": command})
        except httpx.HTTPError as error:
            raise ServiceUnavailable(f"{self._url} does not answer: {error}. Is the gateway running?") from error
        if response.status_code != httpx.codes.OK:
            raise ServiceUnavailable(
                f"{self._url} answered {response.status_code} {response.reason_phrase}; see the gateway's log."
            )
        return Prediction(text=response.text, tokens=0, seconds=time.perf_counter() - started)


def _is_foreign(text: str) -> bool:
    """Whether an answer is a page, nothing, or JSON of another protocol.

    A bad model cuts its JSON short or gets entities wrong; {"error": …} and <html> come from a server.
    """
    text = text.strip()
    if not text or text.startswith("<"):
        return True
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return not (isinstance(value, dict) and "intent" in value)
