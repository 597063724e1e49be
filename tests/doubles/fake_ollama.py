"""A stand-in for the Ollama server: the endpoints that a deployment uses, as Ollama's docs/api.md has them.

It keeps blobs and models, checks digests, renders the model's TEMPLATE, and asks ``answer`` for the rest.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from deployment.ollama_prompt import Message, ollama_prompt

Answer = Callable[[str, dict[str, Any]], str]


@dataclass
class Model:
    digest: str
    template: str
    system: str
    parameters: dict[str, Any]
    license: str


@dataclass
class FakeOllama:
    """Serves while the ``with`` block runs; ``answer(prompt, options)`` is the language model."""

    answer: Answer
    blobs: dict[str, bytes] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    told_digest: str | None = None  # makes /api/show lie

    def __enter__(self) -> Self:
        fake = self

        class Handler(_Handler):
            ollama = fake

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def model(self, name: str) -> Model:
        return self.models[_full(name)]


class _Refused(Exception):
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
        body = self._body()
        self.ollama.requests.append(f"{self.command} {self.path.partition('sha256:')[0]}")
        try:
            status, answer = self._route(body)
        except _Refused as refused:
            status, answer = refused.status, {"error": str(refused)}
        content = b"" if self.command == "HEAD" or answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _route(self, body: bytes) -> tuple[int, dict[str, Any] | None]:
        ollama = self.ollama
        if self.path.startswith("/api/blobs/"):
            return self._blob(self.path.removeprefix("/api/blobs/"), body)
        if (self.command, self.path) == ("GET", "/api/version"):
            return 200, {"version": "0.0.0-fake"}
        if (self.command, self.path) == ("GET", "/api/tags"):
            return 200, {"models": [{"model": name, "name": name} for name in ollama.models]}
        request = json.loads(body)
        match self.command, self.path:
            case "POST", "/api/create":
                return self._create(request)
            case "POST", "/api/show":
                return 200, _shown(self._model(request["model"]), ollama.told_digest)
            case "POST", "/api/generate":
                return self._generate(request)
            case "POST", "/api/copy":
                ollama.models[_full(request["destination"])] = self._model(request["source"])
                return 200, None
            case "DELETE", "/api/delete":
                self._model(request["model"])
                del ollama.models[_full(request["model"])]
                return 200, None
        raise _Refused(404, f"no route {self.command} {self.path}")

    def _blob(self, digest: str, body: bytes) -> tuple[int, None]:
        if self.command == "HEAD":
            return (200 if digest in self.ollama.blobs else 404), None
        found = f"sha256:{hashlib.sha256(body).hexdigest()}"
        if found != digest:
            raise _Refused(400, f"digest mismatch, expected {digest!r}, got {found!r}")
        self.ollama.blobs[digest] = body
        return 201, None

    def _create(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        files = request.get("files")
        if not files:
            raise _Refused(400, "neither 'from' or 'files' was specified")
        (digest,) = files.values()
        if digest not in self.ollama.blobs:
            raise _Refused(400, f"blob not found (digest {digest})")
        if not self.ollama.blobs[digest].startswith(b"GGUF"):
            raise _Refused(400, "supplied file was not in GGUF format")
        self.ollama.models[_full(request["model"])] = Model(
            digest=digest,
            template=request.get("template", ""),
            system=request.get("system", ""),
            parameters=request.get("parameters", {}),
            license=request.get("license", ""),
        )
        return 200, {"status": "success"}

    def _model(self, name: str) -> Model:
        found = self.ollama.models.get(_full(name))
        if found is None:
            raise _Refused(404, f"model '{name}' not found")
        return found

    def _generate(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        model = self._model(request["model"])
        prompt = ollama_prompt(model.template, [Message("user", request["prompt"])], system=model.system)
        text = self.ollama.answer(prompt, {**model.parameters, **(request.get("options") or {})})
        return 200, {
            "model": request["model"],
            "response": text,
            "done": True,
            "eval_count": len(text),
            "eval_duration": 10_000_000 * max(len(text), 1),
        }


def _full(name: str) -> str:
    return name if ":" in name else f"{name}:latest"


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
