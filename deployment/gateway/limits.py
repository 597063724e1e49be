"""How much one client may ask: the rate of its requests and the size of their bodies."""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from starlette.types import Receive, Scope

from deployment.gateway.problems import Refused

ONE_BODY = 64 << 10  # bytes
BATCH_BODY = 1 << 20  # bytes, of MAX_BATCH commands
MAX_BATCH = 64  # commands
_MINUTE = 60.0  # seconds
_MOST_BUCKETS = 10_000  # clients that are remembered


@dataclass
class _Bucket:
    tokens: float
    at: float


class Rate:
    """A token bucket for each client: ``per_minute`` requests at once, then as many a minute; 0 lets all through."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = per_minute
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def take(self, client: str) -> None:
        """Let one request of ``client`` through. Raises Refused, with the seconds to wait, where it is one too many."""
        if not self._size:
            return
        bucket = self._filled(client)
        if bucket.tokens < 1:
            wait = math.ceil((1 - bucket.tokens) * _MINUTE / self._size)
            raise Refused(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"More than {self._size:,} requests a minute; ask again in {wait:,} s.",
                reason="rate",
                headers={"Retry-After": str(wait)},
            )
        bucket.tokens -= 1

    def charge(self, client: str, more: int) -> None:
        """Count ``more`` requests, of a batch that is let through: what follows it waits the longer."""
        if self._size:
            self._filled(client).tokens -= more

    def _filled(self, client: str) -> _Bucket:
        now = self._clock()
        if client not in self._buckets and len(self._buckets) >= _MOST_BUCKETS:
            self._forget(now)
        bucket = self._buckets.setdefault(client, _Bucket(float(self._size), now))
        bucket.tokens, bucket.at = self._level(bucket, now), now
        return bucket

    def _level(self, bucket: _Bucket, now: float) -> float:
        return min(float(self._size), bucket.tokens + (now - bucket.at) * self._size / _MINUTE)

    def _forget(self, now: float) -> None:
        """Drop the clients whose buckets are full, which is as if they were new; else who was silent the longest."""
        full = [client for client, bucket in self._buckets.items() if self._level(bucket, now) >= self._size]
        for client in full or [min(self._buckets, key=lambda client: self._buckets[client].at)]:
            del self._buckets[client]


async def read_body(scope: Scope, receive: Receive, *, most: int, seconds: float) -> bytes:
    """The whole body of a request. Raises Refused where it is larger than ``most`` bytes or does not come in time, or
    not to its end."""
    told = dict(scope["headers"]).get(b"content-length", b"0")
    if told.isdigit() and int(told) > most:
        raise _too_large(most)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(HTTPStatus.BAD_REQUEST, "The body ended too early; send all of it.", reason="gone")
                body += message.get("body", b"")
                if len(body) > most:
                    raise _too_large(most)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Refused(
            HTTPStatus.REQUEST_TIMEOUT, f"The body did not come within {seconds:g} s; send it again.", reason="slow"
        ) from None


def _too_large(most: int) -> Refused:
    return Refused(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"The body is larger than {most >> 10:,} kB, the most that is read here; send less.",
        reason="size",
    )
