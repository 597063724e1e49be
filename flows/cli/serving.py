"""The command that serves a model over HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from deployment.runtimes.decoding import Mode
from flows.cli.options import ConfidenceOption, HomeOption, ThreadsOption, locate_home

app = typer.Typer()


@app.command(rich_help_panel="Models")
def serve(
    model: Annotated[
        str, typer.Argument(help="Package folder, .gguf, models:/NAME@ALIAS, ollama:NAME or http://HOST.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to serve at; beyond this machine, with --keys only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8765,
    decoding: Annotated[
        Mode | None, typer.Option(help="free, schema or grounded; else grounded where the model's labels are known.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Label set (TOML) for a model that brings none.")] = None,
    confidence: ConfidenceOption = True,
    threads: ThreadsOption = 0,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Answers that are made at a time.")] = 4,
    keys: Annotated[
        Path | None, typer.Option(help="File of API keys: the SHA-256 of each in hex, and a name, a line.")
    ] = None,
    rate: Annotated[int, typer.Option(min=0, help="Requests a minute of one key or address; 0 sets no limit.")] = 0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds from a request to its answer.")] = 30.0,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; one more is told to come again.")] = 64,
    poll: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks at the alias of MODEL.")] = 5.0,
    log_texts: Annotated[bool, typer.Option("--log-texts", help="Log commands and answers, too.")] = False,
    home: HomeOption = None,
) -> None:
    """Serve a model over HTTP: as JSON, by OpenAI's protocol, and as a page."""
    from deployment.gateway.keys import KeysFile
    from deployment.gateway.server import is_loopback, listening_socket
    from deployment.gateway.settings import GatewaySettings
    from flows.cli.gateway import serve_model
    from registry.errors import UsageError
    from registry.home import Home

    loopback, known = is_loopback(host), KeysFile(keys) if keys else None
    if not loopback and known is None:
        raise UsageError(f"{host!r} can be reached by other machines; give --keys FILE, or serve at 127.0.0.1.")
    located = Home(path=locate_home(home))
    settings = GatewaySettings(
        feedback=located.feedback, parallel=parallel, queue=queue, timeout=timeout, rate=rate, keys=known,
        loopback=loopback, log_texts=log_texts,
    )  # fmt: skip
    with listening_socket(host, port) as served:
        serve_model(
            model, served, settings, located, decoding=decoding, labels=labels, confidence=confidence, threads=threads,
            poll=poll,
        )  # fmt: skip
