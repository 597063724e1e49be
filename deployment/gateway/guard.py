"""What every request passes before a route sees it: host, rate, key and size; and what is counted and logged of it."""

import logging
import time
import traceback
from collections.abc import Collection
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployment.gateway.limits import BATCH_BODY, ONE_BODY, Rate, read_body
from deployment.gateway.metrics import Metrics
from deployment.gateway.problems import Refused, problem_response, told
from deployment.gateway.settings import GatewaySettings
from registry.urls import is_this_machine

_log = logging.getLogger(__name__)
BATCH = "/v1/audit/batch"
_OPEN = {"/", "/healthz", "/readyz", "/openapi.json"}  # which need no key: nothing of a plant is told there
_RATED = "/v1/"
_UNKNOWN = "unknown"
_BEARER = "bearer "
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


class Guard:
    """The gateway's application with its guard before it; ``routes`` are the paths that it has."""

    def __init__(
        self, app: ASGIApp, routes: Collection[str], *, settings: GatewaySettings, metrics: Metrics, rate: Rate
    ) -> None:
        self._app, self._routes = app, routes
        self._settings, self._metrics, self._rate = settings, metrics, rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        with self._metrics.active.track_inprogress():
            try:
                body = await self._admitted(scope, receive)
                await self._app(scope, _replayed(body, receive), sending)
            except Refused as refused:
                self._metrics.refused(refused.reason)
                await told(refused)(scope, receive, sending)
            except Exception as error:
                self._log_fault(error)
                if not status:
                    fault = "The gateway met a fault of its own; its log tells which."
                    await problem_response(HTTPStatus.INTERNAL_SERVER_ERROR, fault)(scope, receive, sending)
        route = scope["path"] if scope["path"] in self._routes else _UNKNOWN
        seconds = time.perf_counter() - started
        self._metrics.request(scope["method"] if route != _UNKNOWN else _UNKNOWN, route, status, seconds)
        _log.info("%s %s %d in %.0f ms, %s", scope["method"], route, status, 1000 * seconds, scope.get("client_name"))

    async def _admitted(self, scope: Scope, receive: Receive) -> bytes:
        """The body of a request that may go on. Raises Refused otherwise."""
        headers, path = Headers(scope=scope), scope["path"]
        name = self._key_name(headers)
        scope["client_name"] = name or (scope["client"] or ("?",))[0]
        if path.startswith(_RATED):
            self._rate.take(scope["client_name"])
        if self._settings.keys:
            if name is None and path not in _OPEN:
                raise Refused(
                    HTTPStatus.UNAUTHORIZED,
                    "This gateway asks for a key; send it as Authorization: Bearer KEY or X-API-Key: KEY.",
                    reason="key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        elif self._settings.loopback:
            _require_own_host(headers.get("host", ""))
        most = BATCH_BODY if path == BATCH else ONE_BODY
        return await read_body(scope, receive, most=most, seconds=self._settings.timeout)

    def _key_name(self, headers: Headers) -> str | None:
        given, keys = headers.get("authorization", ""), self._settings.keys
        key = given[len(_BEARER) :].strip() if given.lower().startswith(_BEARER) else headers.get("x-api-key", "")
        return keys.name_of(key.encode("latin-1")) if keys and key else None

    def _log_fault(self, error: Exception) -> None:
        """Where it happened; what it says only where texts may be logged, since a command can be in it."""
        places = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)))
        said = f": {error}" if self._settings.log_texts else ""
        _log.error("A request failed by %s%s\n%s", type(error).__name__, said, places.rstrip())


def _require_own_host(host: str) -> None:
    """Raise Refused where a name that is not this machine's leads here: a page of another site, say, in a browser."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if not is_this_machine(name.strip("[]")):
        raise Refused(
            HTTPStatus.FORBIDDEN,
            "This gateway is for its own machine and is asked by another name; serve with --keys to be reached by it.",
            reason="host",
        )


def _replayed(body: bytes, receive: Receive) -> Receive:
    """``receive`` of an application, for a body that was read already."""
    waiting: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
