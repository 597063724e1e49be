"""A client that sends any bytes, in any way, and what came back."""

import json
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any

_SECONDS = 90.0


@dataclass(frozen=True)
class Reply:
    """The first response on a connection."""

    status: int
    media_type: str
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


def request_bytes(route: str, body: bytes, *, method: str = "POST", headers: Iterable[str] = ()) -> bytes:
    """A request of HTTP/1.1, the last one of its connection."""
    told = {
        "Host": "127.0.0.1",
        "Connection": "close",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
    }
    told |= dict(header.split(": ", 1) for header in headers)
    lines = [f"{method} {route} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def sent(
    port: int, parts: Iterable[bytes], *, pause: float = 0.0, close: bool = False, reset: bool = False
) -> Reply | None:
    """What a gateway answers to ``parts``, sent one after another, and None where it is nothing.

    ``close`` ends the sending after them, ``reset`` breaks the connection off and reads nothing.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = b""
        try:
            for part in parts:
                head = head or part[:5]
                connection.sendall(part)
                time.sleep(pause)
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return None
            if close:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was told enough
        try:
            response = HTTPResponse(connection, method="HEAD" if head == b"HEAD " else "GET")
            response.begin()
            return Reply(response.status, response.headers.get_content_type(), response.read())
        except (ConnectionError, HTTPException):
            return None
