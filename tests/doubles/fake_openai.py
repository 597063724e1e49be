"""A stand-in for an OpenAI-compatible server that is no llama-server, as vLLM's and LM Studio's are."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Self

from serving import serve
from streamed import parts_of, send_stream


@dataclass
class FakeOpenAi:
    """Serves while the ``with`` block runs; ``answer(command)`` is the language model, each character a token.

    ``faults`` are what a request is answered instead, as a status and a body.
    """

    answer: Callable[[str], str]
    models: list[str] = field(default_factory=lambda: ["plant"])
    finish_reason: str | None = "stop"
    tells_usage: bool = True
    streams: bool = True  # False: gives the answer whole, though it is asked for a stream
    pause: Callable[[], object] = bool  # called after the first part of a stream
    midway: str = ""  # the error that a stream ends with after its first part
    context: int = 1_000  # characters
    base: str = "/v1"
    faults: dict[str, tuple[int, str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)  # of chats

    def __enter__(self) -> Self:
        fake = self

        class Handler(_Handler):
            openai = fake

        self._server = serve(Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.address = f"http://{self.host}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    openai: FakeOpenAi

    def do_GET(self) -> None:
        self._reply()

    def do_POST(self) -> None:
        self._reply()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a failed test should show what failed."""

    def _reply(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.openai.requests.append(f"{self.command} {self.path}")
        self.openai.headers.append(dict(self.headers))
        status, text = self.openai.faults.get(f"{self.command} {self.path.partition('?')[0]}") or self._answered(body)
        if not isinstance(text, str):
            send_stream(self, "text/event-stream; charset=utf-8", text)
            return
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answered(self, body: bytes) -> tuple[int, str | Iterator[bytes]]:
        openai = self.openai
        match self.command, self.path.partition("?")[0].removeprefix(openai.base):
            case "GET", "/models":
                return 200, json.dumps({"object": "list", "data": [{"id": name} for name in openai.models]})
            case "POST", "/chat/completions":
                return self._completion(json.loads(body))
        return 404, json.dumps({"detail": "Not Found"})

    def _completion(self, request: dict[str, Any]) -> tuple[int, str | Iterator[bytes]]:
        openai = self.openai
        openai.bodies.append(request)
        command = request["messages"][-1]["content"]
        if len(command) > openai.context:
            message = f"This model's maximum context length is {openai.context} tokens, you requested {len(command)}."
            return 400, json.dumps({"object": "error", "message": message, "type": "BadRequestError", "code": 400})
        text = openai.answer(command)
        if request.get("stream") and openai.streams:
            return 200, self._events(text, request.get("stream_options", {}))
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": openai.finish_reason}
        usage = {"usage": {"completion_tokens": len(text)}} if openai.tells_usage else {}
        return 200, json.dumps({"choices": [choice], **usage})

    def _events(self, text: str, options: dict[str, Any]) -> Iterator[bytes]:
        openai = self.openai
        deltas = [{"role": "assistant", "content": ""}, *({"content": part} for part in parts_of(text))]
        chunks: list[dict[str, Any]] = [{"choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas]
        chunks.append({"choices": [{"delta": {}, "finish_reason": openai.finish_reason}]})
        if openai.tells_usage and options.get("include_usage"):
            chunks.append({"choices": [], "usage": {"completion_tokens": len(text)}})
        if openai.midway:
            chunks[2:] = [{"error": {"message": openai.midway, "code": 500}}]
        for number, chunk in enumerate(chunks):
            if number == 2:
                openai.pause()
            yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()
        yield b": a comment\n\ndata: [DONE]\n\n"
