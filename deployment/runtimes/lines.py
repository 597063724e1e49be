"""The lines of an answer that comes bit by bit."""

from collections.abc import Iterator

import httpx


def lines_of(response: httpx.Response) -> Iterator[bytes]:
    """The lines as they come, parted at line feeds alone: httpx parts at characters, too, that a JSON text may hold."""
    rest = b""
    for chunk in response.iter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.rstrip(b"\r") for line in lines)
    if rest:
        yield rest
