"""A server that gives every request the same answer."""

from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Self

from serving import serve


@dataclass
class CannedServer:
    """Serves ``body`` with ``status`` while the ``with`` block runs, and keeps what it was asked."""

    body: str
    status: int = 200
    content_type: str = "application/json"
    requests: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def __enter__(self) -> Self:
        canned = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                canned.requests.append(f"{self.command} {self.path}")
                canned.headers.append(dict(self.headers))
                content = canned.body.encode()
                self.send_response(canned.status)
                self.send_header("Content-Type", canned.content_type)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing: a failed test should show what failed."""

        self._server = serve(Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
