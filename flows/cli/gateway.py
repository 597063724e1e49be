"""From what ``serve`` is told to a gateway that runs."""

import socket
from functools import partial
from pathlib import Path

from deployment.answers.assistant import Assistant
from deployment.gateway.app import gateway_app
from deployment.gateway.backend import Source
from deployment.gateway.server import address_of, serve
from deployment.gateway.settings import GatewaySettings
from deployment.runtimes.decoding import Mode
from flows.cli.console import errors
from registry.home import Home
from registry.models import local_model, named_version
from registry.urls import masked

_ALIAS = "@"


def serve_model(
    model: str,
    served: socket.socket,
    settings: GatewaySettings,
    home: Home,
    *,
    decoding: Mode | None,
    labels: Path | None,
    confidence: bool,
    threads: int,
    poll: float,
) -> None:
    """Serve ``model`` at the socket until the process is asked to end. Raises as Assistant does."""

    def opened() -> Assistant:
        return Assistant(
            local_model(model, home), decoding=decoding, labels=labels, threads=threads, parallel=settings.parallel,
            answer_seconds=settings.timeout, confidence=confidence,
        )  # fmt: skip

    follows = model.startswith("models:/") and _ALIAS in model
    source = Source(
        name=_shown(model), open=opened, revision=partial(_version, model, home) if follows else None, poll=poll
    )
    app = gateway_app(source, settings)
    errors.print(f"Serving {source.name} at {address_of(served)}", highlight=False, markup=False, soft_wrap=True)
    serve(app, served)


def _version(model: str, home: Home) -> str:
    version = named_version(model, home)
    return str(version.version) if version else ""


def _shown(model: str) -> str:
    """``model`` without what no client should know: the folders of this machine, the password of a server."""
    is_file = not model.startswith(("models:/", "ollama:", "http://", "https://"))
    return Path(model).resolve().name if is_file else masked(model)
