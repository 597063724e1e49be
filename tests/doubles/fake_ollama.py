"""A stand-in for the Ollama server: the endpoints that a deployment uses, as Ollama's docs/api.md has them.

It keeps blobs and models, checks digests, renders the model's TEMPLATE, and asks ``answer`` for the rest, which can be
llama.cpp itself (``llama_ollama``). As Ollama does, it rewrites a file that it is given into llama.cpp's order.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socket import SHUT_RDWR
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from serving import serve
from streamed import parts_of, send_stream

from deployment.prompts.ollama_prompt import ollama_prompt
from deployment.prompts.prompt import Message
from registry.errors import UsageError
from tasks.gguf.reordering import reorder_gguf


@dataclass(frozen=True)
class Said:
    """An answer with its tokens as Ollama tells them; without any, each character is one."""

    text: str
    logprobs: list[dict[str, Any]]


Answer = Callable[[str, dict[str, Any]], str | Said]


@dataclass
class Model:
    digest: str = "sha256:" + "0" * 64
    template: str = "{{ .Prompt }}"
    system: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    license: str = ""
    age: timedelta = timedelta()


@dataclass
class FakeOllama:
    """Serves while the ``with`` block runs; ``answer(prompt, options)`` is the language model.

    Its options are the request's, over the Modelfile's, with ``format`` and ``top_logprobs`` where it has them.
    """

    answer: Answer
    blobs: dict[str, bytes] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)  # of the requests to /api/generate
    said: list[str] = field(default_factory=list)  # the answers to them
    told_digest: str | None = None  # makes /api/show lie
    rewrites: bool = True  # False: as before August 2026
    done: bool = True  # False: breaks each answer off
    pause: Callable[[], object] = bool  # called after the first part of a stream
    midway: str = ""  # the error that a stream ends with after its first part
    after_copy: Callable[[], None] | None = None
    faults: dict[str, tuple[int, str] | None] = field(default_factory=dict)  # status and body; None hangs up

    def __enter__(self) -> Self:
        fake = self

        class Handler(_Handler):
            ollama = fake

        self._server = serve(Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def model(self, name: str) -> Model:
        return self.models[_full(name)]


class Refused(Exception):
    """What the server refuses; an ``answer`` may raise it too."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    ollama: FakeOllama
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._reply()

    do_HEAD = do_POST = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a failed test should show what failed."""

    def _reply(self) -> None:
        request = f"{self.command} {self.path.partition('sha256:')[0]}"
        self.ollama.requests.append(request)
        if self.ollama.faults.get(request, ()) is None:
            self.close_connection = True
            self.connection.shutdown(SHUT_RDWR)
            return
        status, content = self._answered(request)
        if not isinstance(content, bytes):
            send_stream(self, "application/x-ndjson", content)
            return
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answered(self, request: str) -> tuple[int, bytes | Iterator[bytes]]:
        body = self._body()
        if fault := self.ollama.faults.get(request):
            status, answer = fault
            return status, b"" if self.command == "HEAD" else answer.encode()
        try:
            status, answer = self._route(body)
        except Refused as refused:
            status, answer = refused.status, {"error": str(refused)}
        if isinstance(answer, list):
            return status, self._lines(answer)
        return status, b"" if self.command == "HEAD" or answer is None else json.dumps(answer).encode()

    def _lines(self, parts: list[dict[str, Any]]) -> Iterator[bytes]:
        for number, part in enumerate(parts):
            if number == 1:
                self.ollama.pause()
            yield json.dumps(part, ensure_ascii=False).encode() + b"\n"

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _route(self, body: bytes) -> tuple[int, dict[str, Any] | list[dict[str, Any]] | None]:
        ollama = self.ollama
        if self.path.startswith("/api/blobs/"):
            return self._blob(self.path.removeprefix("/api/blobs/"), body)
        if (self.command, self.path) == ("GET", "/api/version"):
            return 200, {"version": "0.0.0-fake"}
        if (self.command, self.path) == ("GET", "/api/tags"):
            return 200, {"models": [_listed(*item) for item in ollama.models.items()]}
        request = json.loads(body)
        match self.command, self.path:
            case "POST", "/api/create":
                return self._create(request)
            case "POST", "/api/show":
                return 200, _shown(self._model(request["model"]), ollama.told_digest)
            case "POST", "/api/generate":
                return self._generate(request)
            case "POST", "/api/chat":
                text = self._answer(request, request["messages"], request.get("options") or {}).text
                return 200, {"model": request["model"], "message": {"role": "assistant", "content": text}, "done": True}
            case "POST", "/v1/chat/completions":
                options = {name: request.get(name, 1.0) for name in ("temperature", "top_p")}  # over the Modelfile's
                text = self._answer(request, request["messages"], options).text
                return 200, {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}
            case "POST", "/api/copy":
                ollama.models[_full(request["destination"])] = self._model(request["source"])
                if ollama.after_copy:
                    ollama.after_copy()
                return 200, None
            case "DELETE", "/api/delete":
                self._model(request["model"])
                del ollama.models[_full(request["model"])]
                return 200, None
        raise Refused(404, f"no route {self.command} {self.path}")

    def _blob(self, digest: str, body: bytes) -> tuple[int, None]:
        if self.command == "HEAD":
            return (200 if digest in self.ollama.blobs else 404), None
        found = f"sha256:{hashlib.sha256(body).hexdigest()}"
        if found != digest:
            raise Refused(400, f"digest mismatch, expected {digest!r}, got {found!r}")
        self.ollama.blobs[digest] = body
        return 201, None

    def _create(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        files = request.get("files")
        if not files:
            raise Refused(400, "neither 'from' or 'files' was specified")
        (digest,) = files.values()
        if digest not in self.ollama.blobs:
            raise Refused(400, f"blob not found (digest {digest})")
        if not self.ollama.blobs[digest].startswith(b"GGUF"):
            raise Refused(400, "supplied file was not in GGUF format")
        self.ollama.models[_full(request["model"])] = Model(
            digest=self._rewritten(digest) if self.ollama.rewrites else digest,
            template=request.get("template", ""),
            system=request.get("system", ""),
            parameters=request.get("parameters", {}),
            license=request.get("license", ""),
        )
        return 200, {"status": "success"}

    def _rewritten(self, digest: str) -> str:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "blob.gguf"
            file.write_bytes(self.ollama.blobs[digest])
            try:
                rewritten = f"sha256:{reorder_gguf(file, file).sha256}"
            except UsageError as error:
                raise Refused(500, f"verifying conversion: {error}") from error
            self.ollama.blobs[rewritten] = file.read_bytes()
        return rewritten

    def _model(self, name: str) -> Model:
        found = self.ollama.models.get(_full(name))
        if found is None:
            raise Refused(404, f"model '{name}' not found")
        return found

    def _answer(self, request: dict[str, Any], messages: list[dict[str, str]], options: dict[str, Any]) -> Said:
        """The answer to what is left of the prompt, of which each character is a token."""
        model = self._model(request["model"])
        prompt = ollama_prompt(model.template, [Message(**message) for message in messages], system=model.system)
        options = {"num_ctx": 4096, **model.parameters, **options}
        context = int(options["num_ctx"])
        if len(prompt) > context and request.get("truncate") is False:
            told = f"request ({len(prompt)} tokens) exceeds the available context size ({context} tokens)"
            raise Refused(400, f"{told}, try increasing it")
        asked = {name: request[name] for name in ("format", "top_logprobs") if name in request}
        said = self.ollama.answer(prompt[-context:], {**options, **asked})
        if isinstance(said, Said):
            return said
        return Said(said, [{"token": character, "logprob": -0.01, "top_logprobs": []} for character in said])

    def _generate(self, request: dict[str, Any]) -> tuple[int, dict[str, Any] | list[dict[str, Any]]]:
        self.ollama.bodies.append(request)
        system = [{"role": "system", "content": request["system"]}] if request.get("system") else []
        messages = [*system, {"role": "user", "content": request["prompt"]}]
        said = self._answer(request, messages, request.get("options") or {})
        self.ollama.said.append(said.text)
        text, tokens = said.text, len(said.logprobs) or len(said.text)
        counts = {"eval_count": tokens, "eval_duration": 10_000_000 * max(tokens, 1)}
        last = {"model": request["model"], "done": self.ollama.done, **counts}
        if request.get("logprobs"):
            last["logprobs"] = said.logprobs
        if not request.get("stream", True):
            return 200, {**last, "response": text}
        parts = [{"model": request["model"], "response": part, "done": False} for part in parts_of(text)]
        if self.ollama.midway:
            return 200, [parts[0], {"error": self.ollama.midway}]
        return 200, [*parts, {**last, "response": ""}] if self.ollama.done else parts


def _full(name: str) -> str:
    return name if ":" in name else f"{name}:latest"


def _listed(name: str, model: Model) -> dict[str, str]:
    return {"model": name, "name": name, "modified_at": (datetime.now(UTC) - model.age).isoformat()}


def _shown(model: Model, told_digest: str | None) -> dict[str, Any]:
    blob = (told_digest or model.digest).replace("sha256:", "sha256-")
    return {
        "modelfile": f'# Modelfile generated by "ollama show"\n\nFROM /root/.ollama/models/blobs/{blob}\n'
        f'TEMPLATE """{model.template}"""\n',
        "template": model.template,
        "license": model.license,
        "details": {"format": "gguf", "family": "gemma3"},
        "model_info": {"general.architecture": "gemma3"},
    }
