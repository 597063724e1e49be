"""One OpenAI-compatible server, such as llama-server: the requests that gemmill makes, with whatever goes wrong as one
sentence that names the server."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, Field, ValidationError

from deployment.runtimes.decoding import SHOWN
from deployment.runtimes.lines import lines_of
from registry.errors import NoAnswer, ServiceUnavailable, UsageError
from registry.urls import is_this_machine, masked

_KEY = "OPENAI_API_KEY"
_SECONDS = 300.0  # for one answer; an edge device may have to load the model first
_CONNECT_SECONDS = 5.0
_SAID = 200  # characters of what a server says
_LISTED = 10  # models
_STREAM, _EVENT, _LAST_EVENT = "text/event-stream", b"data:", b"[DONE]"
_VERSION = re.compile(r"/v\d+(?:beta)?(?=/|$)")
_TAG = re.compile(r"<[^>]*>")
# llama.cpp, vLLM, SGLang and OpenAI name the context, TGI the number of tokens.
_TOO_LONG = re.compile(r"context[ _](?:length|size|window)|model length|must have less than \d+ tokens", re.IGNORECASE)
_LENGTH_REFUSED = {
    HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY,
}  # fmt: skip
_BUSY = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}


class _Message(BaseModel):
    content: str | None = None


class Logprobs(BaseModel):
    """What a server tells of the tokens of an answer."""

    content: list[dict[str, Any]] | None = None


class Choice(BaseModel):
    """One answer, and why it ended."""

    message: _Message
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class _Usage(BaseModel):
    completion_tokens: int | None = None


class Completion(BaseModel):
    """What a server answers to a chat."""

    choices: list[Choice] = Field(min_length=1)
    usage: _Usage | None = None

    @property
    def tokens(self) -> int:
        """How many were generated; 0 where the server does not say."""
        return (self.usage and self.usage.completion_tokens) or 0


class _Delta(BaseModel):
    delta: _Message = Field(default_factory=_Message)
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class _Chunk(BaseModel):
    """What a server streams of a chat; the one with the usage has no choice."""

    choices: list[_Delta]
    usage: _Usage | None = None


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


_Reply = TypeVar("_Reply", bound=BaseModel)


class OpenAiClient:
    """The server at ``url``: ``http(s)://HOST:PORT``, a base path where it has one, ``#NAME`` for a model of several.

    A path that names no version of the API is followed by ``/v1``. ``user:password@`` goes along with each request, or
    else OPENAI_API_KEY where that is set; ``address``, which people read, hides the password.

    Every method raises ServiceUnavailable where no server answers, or none of this kind, and UsageError where it
    refuses the request.
    """

    def __init__(self, url: str, *, seconds: float = _SECONDS) -> None:
        try:
            given = httpx.URL(url)
            host = given.host
        except (httpx.InvalidURL, UnicodeError) as error:
            raise UsageError(f"MODEL {url!r} is no URL; write http://HOST:PORT, a password percent-encoded.") from error
        if not host:
            raise UsageError(f"MODEL {url!r} names no host; write http://HOST:PORT.")
        self._wanted = given.fragment
        self._seconds = min(_SECONDS, seconds)
        self._url = given.copy_with(fragment=None)
        self.address = masked(str(self._url)).rstrip("/")
        path = given.path.rstrip("/")
        version = _VERSION.search(path)
        self._root = path[: version.start()] if version else path
        self._api = path if version else f"{path}/v1"
        self._key = "" if given.userinfo else _api_key()
        self._client = httpx.Client(
            timeout=httpx.Timeout(self._seconds, connect=_CONNECT_SECONDS),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            trust_env=not is_this_machine(host),  # which no proxy can reach
        )

    def close(self) -> None:
        self._client.close()

    def model(self) -> str:
        """The name of the model that is meant: that of the URL, else of the only one there is."""
        response = self._request("GET", f"{self._api}/models")
        self._require_success(response)
        names = [model.id for model in self._read(_Models, response).data]
        if not names:
            raise UsageError(f"{self.address} lists no model; load one there.")
        # Also where a name is given: llama-server answers to any.
        if self._wanted in names or (not self._wanted and len(names) == 1):
            return self._wanted or names[0]
        shown = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED:,} more" if names[_LISTED:] else "")
        fault = f"has no model {self._wanted!r}" if self._wanted else f"has {len(names):,} models"
        raise UsageError(f"{self.address} {fault}; write {self.address}#NAME with one of: {shown}.")

    def is_llama_server(self) -> bool:
        """Whether it takes llama.cpp's own fields too."""
        response = self._request("GET", f"{self._root}/props")
        if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:  # as llama-server says while it loads the model
            self._require_success(response)
        return response.status_code == HTTPStatus.OK and "default_generation_settings" in _object(response.content)

    def complete(self, model: str, command: str, fields: Mapping[str, Any]) -> Completion:
        """The answer to ``command`` as the one message of a user. Raises NoAnswer where it is too long."""
        response = self._request("POST", f"{self._api}/chat/completions", _chat(model, command, fields))
        self._require_answer(response, command)
        return self._read(Completion, response)

    def complete_parts(self, model: str, command: str, fields: Mapping[str, Any]) -> Iterator[str | Completion]:
        """The parts of the text of :meth:`complete`'s answer as they come, and the answer at the end.

        A server that does not stream gives the answer alone.
        """
        body = {**_chat(model, command, fields), "stream": True, "stream_options": {"include_usage": True}}
        url = self._url.copy_with(path=f"{self._api}/chat/completions")
        with self._errors(), self._client.stream("POST", url, json=body) as response:
            if response.status_code != HTTPStatus.OK or _STREAM not in response.headers.get("content-type", ""):
                response.read()
                self._require_answer(response, command)
                yield self._read(Completion, response)
                return
            text, reason, usage, told = "", None, None, []
            for line in lines_of(response):
                if not line.startswith(_EVENT) or (event := line.removeprefix(_EVENT).strip()) == _LAST_EVENT:
                    continue
                chunk = self._chunk(event)
                usage = chunk.usage or usage
                for choice in chunk.choices[:1]:
                    reason = choice.finish_reason or reason
                    told += (choice.logprobs and choice.logprobs.content) or []
                    if part := choice.delta.content:
                        text += part
                        yield part
        choice = Choice(message=_Message(content=text), finish_reason=reason, logprobs=Logprobs(content=told))
        yield Completion(choices=[choice], usage=usage)

    def _chunk(self, event: bytes) -> _Chunk:
        try:
            return _Chunk.model_validate_json(event)
        except ValidationError as error:
            raise ServiceUnavailable(
                f"{self.address} broke off its answer, it says: {self._said(event)}; see its log, then try again."
            ) from error

    def _require_answer(self, response: httpx.Response, command: str) -> None:
        if response.status_code in _LENGTH_REFUSED and _TOO_LONG.search(response.text):
            shown = command if len(command) <= SHOWN else f"{command[:SHOWN]}…"
            raise NoAnswer(
                f"The command {shown!r} is too long, the server says: {self._said(response.content)}; shorten it or "
                "raise the server's context."
            )
        self._require_success(response)

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        with self._errors():
            return self._client.request(method, self._url.copy_with(path=path), json=body)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, UnicodeError) as error:  # the last of a host like a..b
            raise ServiceUnavailable(
                f"No server answers at {self.address}; start llama-server or another OpenAI-compatible one there."
            ) from error
        except httpx.TimeoutException as error:
            raise ServiceUnavailable(
                f"{self.address} did not answer within {self._seconds:.0f} s; see its log, then try again."
            ) from error
        except httpx.HTTPError as error:
            said = f"{type(error).__name__}: {error}".strip(": ")
            raise ServiceUnavailable(
                f"{self.address} did not finish its answer ({said}); see its log, then try again."
            ) from error

    def _require_success(self, response: httpx.Response) -> None:
        status, request = response.status_code, response.request
        if status == HTTPStatus.OK:
            return
        fault = (
            f"{self.address} answered {status} to {request.method} {request.url.path}: {self._said(response.content)}"
        )
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise UsageError(f"{fault}; set {_KEY} to a key of that server, or write user:password@ before its host.")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _BUSY:
            raise ServiceUnavailable(f"{fault}; see its log, then try again.")
        if status == HTTPStatus.BAD_REQUEST:
            raise UsageError(f"{fault}; see its log.")
        raise UsageError(f"{fault}; is it the address of an OpenAI-compatible server?")

    def _read(self, kind: type[_Reply], response: httpx.Response) -> _Reply:
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise ServiceUnavailable(
                f"{self.address} does not answer as an OpenAI-compatible server does, it says: "
                f"{self._said(response.content)}; is another service there, or a proxy before it?"
            ) from error

    def _said(self, content: bytes) -> str:
        """What the server says in one line: the message of an error, or a page's text."""
        answer = _object(content)
        error = answer.get("error", answer)
        message = error.get("message") if isinstance(error, dict) else error
        text = " ".join(
            _TAG.sub(" ", message if isinstance(message, str) else content.decode(errors="replace")).split()
        )
        if self._key:
            text = text.replace(self._key, "***")
        return text[:_SAID].rstrip(".") or "nothing"


def _chat(model: str, command: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": command}], **fields}


def _api_key() -> str:
    key = os.environ.get(_KEY, "").strip()
    if not (key.isascii() and key.isprintable()):  # httpx would quote all of it
        raise UsageError(f"{_KEY} holds a character that no key has; set it anew.")
    return key


def _object(content: bytes) -> dict[str, Any]:
    """The JSON object of a response, empty where it is something else."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
