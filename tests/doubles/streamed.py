"""How a double streams: a text in parts, each sent by itself."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

_CHARACTERS = 7  # of a part


def parts_of(text: str) -> list[str]:
    return [text[start : start + _CHARACTERS] for start in range(0, len(text), _CHARACTERS)]


def send_stream(handler: BaseHTTPRequestHandler, content_type: str, parts: Iterator[bytes]) -> None:
    """Answer 200 and ``parts``, each when it is there."""
    handler.send_response(200)
    handler.send_header("Content-Type", content_type)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True
    for part in parts:
        handler.wfile.write(part)
        handler.wfile.flush()
