"""One Ollama server: the requests that gemmill makes, with whatever goes wrong as one sentence that names the server.

What answers at an address can be anything: a proxy's page, another service, an Ollama that dies. No answer is taken for
granted, so that one device never ends the work on others.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import ollama
from pydantic import BaseModel, ConfigDict

from deployment.packages.modelfile import Modelfile
from deployment.runtimes.decoding import SHOWN, AnswerLimits
from deployment.runtimes.lines import lines_of
from registry.errors import NoAnswer, ServiceUnavailable, UsageError
from registry.urls import is_this_machine, masked

_CONNECT_SECONDS = 5.0
_SHOWN = 200  # characters of what a server says
_BLOB = re.compile(r"^FROM .*sha256[-:]([0-9a-f]{64})\s*$", re.MULTILINE)
_TOO_LONG = re.compile(r"(\d+) tokens\D*context\D*(\d+)")  # llama.cpp's words, which Ollama passes on
_TAG = re.compile(r"<[^>]*>")
_BROKEN = (ValueError, TypeError, KeyError, AttributeError)  # what the ollama package raises for another's answer


class Reply(BaseModel):
    """What /api/generate answers; the ollama package's own model leaves out the bytes of tokens."""

    model_config = ConfigDict(frozen=True)

    response: str
    done: bool = False
    eval_count: int | None = None
    eval_duration: int | None = None
    logprobs: list[dict[str, Any]] | None = None


class OllamaClient:
    """The Ollama at ``host``, else OLLAMA_HOST, else this machine's.

    ``url`` is its own alone; ``address``, which people read, names the user too, and hides the password.

    Every method raises ServiceUnavailable where no Ollama answers, or none that speaks its language, and UsageError
    where it refuses the request. ``user:password@`` of ``host`` goes along with each request.
    """

    def __init__(self, host: str | None = None, *, timeout: float) -> None:
        host = host or os.environ.get("OLLAMA_HOST") or None
        try:
            parts = urlsplit(host if host and "://" in host else f"http://{host or ''}")
            user = unquote(parts.username or ""), unquote(parts.password or "")
            self._client = ollama.Client(
                host=host,
                timeout=httpx.Timeout(timeout, connect=_CONNECT_SECONDS),
                auth=httpx.BasicAuth(*user) if any(user) else None,
                trust_env=not is_this_machine(parts.hostname),  # which no proxy can reach
            )
        except (ValueError, httpx.InvalidURL) as error:
            shown = masked(host or "")
            raise UsageError(
                f"{shown!r} is not the address of an Ollama server; write http://HOST:PORT, a password percent-encoded."
            ) from error
        self.url = str(self._client._client.base_url).rstrip("/")
        userinfo = "".join(parts.netloc.rpartition("@")[:2])
        self.address = masked(self.url.replace("://", f"://{userinfo}", 1))

    def close(self) -> None:
        self._client.close()

    def version(self) -> str:
        with self._errors():
            return _text(self._client._request_raw("GET", "/api/version").json()["version"])

    def models(self) -> dict[str, float | None]:
        """The names of its models, each with its age in seconds by the server's own clock; None where none is told."""
        with self._errors():
            response = self._client._request_raw("GET", "/api/tags")
            listed = ollama.ListResponse(**response.json()).models
            told = response.headers.get("date")
            now = parsedate_to_datetime(told) if told else datetime.now(UTC)
            return {
                model.model: (now - model.modified_at).total_seconds() if model.modified_at else None
                for model in listed
                if model.model
            }

    def upload(self, file: Path, sha256: str) -> bool:
        """Send ``file`` unless the server has it; whether it was sent."""
        with self._errors():
            try:
                self._client._request_raw("HEAD", f"/api/blobs/sha256:{sha256}")
            except ollama.ResponseError as error:
                if error.status_code != httpx.codes.NOT_FOUND:
                    raise
                self._client.create_blob(file)
                return True
            return False

    def create(self, name: str, file_name: str, sha256: str, modelfile: Modelfile) -> None:
        """Make ``name`` of an uploaded file."""
        parameters = {
            key: list(value) if isinstance(value, tuple) else value for key, value in modelfile.parameters.items()
        }
        with self._errors():
            self._client.create(
                name,
                files={file_name: f"sha256:{sha256}"},
                template=modelfile.template,
                system=modelfile.system or None,
                parameters=parameters,
                license=modelfile.licence,
            )

    def gguf_sha256(self, name: str) -> str:
        """The digest of the file behind ``name``, as the server tells it."""
        with self._errors():
            told = self._client.show(name).modelfile or ""
        found = _BLOB.search(told)
        if found is None:
            raise UsageError(f"Ollama at {self.address} does not tell the digest of {name}; is it a proxy?")
        return found[1]

    def generate(
        self, name: str, command: str, options: Mapping[str, Any], fields: Mapping[str, Any] = MappingProxyType({})
    ) -> Reply:
        """The whole answer to the whole command: nothing is cut to fit the context. Raises NoAnswer where none is.

        ``fields`` are more of the request's, such as ``format``, a JSON Schema that the answer keeps to.
        """
        body = {**_asked(name, command, options, fields), "stream": False}
        with self._errors(name), _length_refused(command, options):
            answer = self._client._request_raw("POST", "/api/generate", json=body)
            reply = Reply.model_validate(answer.json())
        if not reply.done:
            raise self._broken_off(command)
        return reply

    def generate_parts(
        self, name: str, command: str, options: Mapping[str, Any], fields: Mapping[str, Any] = MappingProxyType({})
    ) -> Iterator[Reply]:
        """The parts of :meth:`generate`'s answer as they come; the last one is ``done``."""
        body = {**_asked(name, command, options, fields), "stream": True}
        with (
            self._errors(name),
            _length_refused(command, options),
            self._client._client.stream("POST", "/api/generate", json=body) as response,
        ):
            if not response.is_success:
                response.read()
                raise ollama.ResponseError(response.text, response.status_code)
            for line in lines_of(response):
                told = json.loads(line)
                if error := told.get("error"):  # that the status of a stream came too early for
                    raise ollama.ResponseError(error, httpx.codes.INTERNAL_SERVER_ERROR)
                part = Reply.model_validate(told)
                yield part
                if part.done:
                    return
        raise self._broken_off(command)

    def _broken_off(self, command: str) -> NoAnswer:
        return NoAnswer(
            f"Ollama at {self.address} broke off its answer to {command[:SHOWN]!r}, as after 30 equal tokens."
        )

    def copy(self, name: str, to: str) -> None:
        with self._errors():
            self._client.copy(name, to)

    def delete(self, name: str) -> None:
        with self._errors():
            self._client.delete(name)

    @contextmanager
    def _errors(self, model: str | None = None) -> Iterator[None]:
        """``model``: what is asked, and missing where the server finds nothing."""
        try:
            yield
        except ollama.ResponseError as error:
            if model and error.status_code == httpx.codes.NOT_FOUND:
                raise UsageError(
                    f"Ollama at {self.address} has no model {model!r}; `ollama list` shows those it has."
                ) from error
            kind = ServiceUnavailable if error.status_code >= 500 else UsageError
            raise kind(f"Ollama at {self.address} says: {_shown(error)}.") from error
        except (ConnectionError, httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ServiceUnavailable(
                f"No Ollama answers at {self.address}; start `ollama serve` there, or name another one by "
                "--device or OLLAMA_HOST."
            ) from error
        except httpx.HTTPError as error:
            said = f"{type(error).__name__}: {error}".strip(": ")
            raise ServiceUnavailable(
                f"Ollama at {self.address} did not finish its answer ({said}); see its log, then try again."
            ) from error
        except _BROKEN as error:
            raise ServiceUnavailable(
                f"{self.address} does not answer as Ollama does; is another service there, or a proxy before it?"
            ) from error


def _asked(name: str, command: str, options: Mapping[str, Any], fields: Mapping[str, Any]) -> Mapping[str, Any]:
    # the ollama package knows neither truncate nor shift
    return {"model": name, "prompt": command, "options": dict(options), "truncate": False, "shift": False, **fields}


@contextmanager
def _length_refused(command: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Turn the refusal of a command that is too long into a NoAnswer."""
    try:
        yield
    except ollama.ResponseError as error:
        if error.status_code == httpx.codes.BAD_REQUEST and (found := _TOO_LONG.search(error.error)):
            limits = AnswerLimits(num_ctx=int(found[2]), num_predict=options.get("num_predict", 0))
            raise NoAnswer(limits.refusal(command, int(found[1]))) from error
        raise


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} where a text belongs")
    return value


def _shown(error: ollama.ResponseError) -> str:
    """What the server says in one line; of a page, its text."""
    said = " ".join(_TAG.sub(" ", str(error.error)).split())
    return said[:_SHOWN].rstrip(".") or f"status {error.status_code} and nothing else"
