"""HTTP as the gateway speaks it: uvicorn's, where what is no HTTP gets a problem too, and a request's head its time."""

import asyncio
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from deployment.gateway.problems import problem_response

_HEAD_SECONDS = 20.0  # from the first byte of a request, or the connection's start, to the end of its headers


class GatewayProtocol(H11Protocol):
    """One connection."""

    head_seconds = _HEAD_SECONDS
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # a head that is not whole yet, or the rest of a body after its answer, which nobody wants any more
        if self.conn.their_state is h11.IDLE or self.conn.our_state is h11.DONE:
            if self._waiting is None:
                self._wait_for_head()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._end(HTTPStatus.BAD_REQUEST, "This is no HTTP/1.1 request; send one whose body is JSON.")

    def _wait_for_head(self) -> None:
        self._waiting = self.loop.call_later(self.head_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._waiting:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._end(HTTPStatus.REQUEST_TIMEOUT, f"No request came within {self.head_seconds:g} s; send it again.")

    def _end(self, status: HTTPStatus, detail: str) -> None:
        """Tell a problem where no answer has begun, give up the request under way, and close the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = problem_response(status, detail)
            headers = [*response.raw_headers, (b"connection", b"close")]
            head = h11.Response(status_code=status, headers=headers, reason=status.phrase.encode())
            for event in (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
