"""The gateway on an address, until it is told to end."""

import contextlib
import os
import socket
from ipaddress import ip_address

import uvicorn

from deployment.gateway.guard import Guard
from deployment.gateway.protocol import GatewayProtocol
from registry.errors import UsageError

_IDLE_SECONDS = 75  # of a connection; longer than clients keep one, or a request meets its end
_END_SECONDS = 10  # that requests under way have when the gateway is told to end


def is_loopback(host: str) -> bool:
    """Whether an address or name of this machine is one that other machines cannot reach.

    Raises UsageError for a name that leads nowhere.
    """
    if not host:
        return False
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"host {host!r} leads nowhere; write an address of this machine, such as 127.0.0.1."
        ) from error
    return all(ip_address(str(place[4][0]).partition("%")[0]).is_loopback for place in found)


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket on ``host`` and ``port``, 0 for a free one. Raises UsageError where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends at once only from sockets that were made for TCP by name; others wait 40 ms for the client
    served = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # elsewhere it would let two programs serve at one port
            served.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        served.bind((host, port))
        served.listen()
    except (OSError, OverflowError) as error:
        served.close()
        said = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UsageError(f"{host} cannot be served at port {port}: {said}; name another --host or --port.") from error
    return served


def address_of(served: socket.socket) -> str:
    host, port = served.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server_of(app: Guard) -> uvicorn.Server:
    """The server that runs ``app``; it finishes requests under way when it is told to end."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=GatewayProtocol,
            ws="none",  # a request for one is answered as any other
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=_END_SECONDS,
        )
    )


def serve(app: Guard, served: socket.socket) -> None:
    """Serve ``app`` until the process is asked to end."""
    with contextlib.suppress(KeyboardInterrupt):
        server_of(app).run(sockets=[served])
