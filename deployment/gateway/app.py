"""The gateway's routes: one model, asked by JSON, as a stream, by OpenAI's protocol, and from a page."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib import metadata
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from deployment.answers.answer import Answer
from deployment.gateway import chat, examples
from deployment.gateway.asking import Asking, events
from deployment.gateway.backend import Backend, Source
from deployment.gateway.bodies import Audit, Batch, Chat, Json
from deployment.gateway.examples import EVENTS
from deployment.gateway.faults import add_handlers
from deployment.gateway.feedback import Correction
from deployment.gateway.guard import BATCH, Guard
from deployment.gateway.limits import Rate
from deployment.gateway.line import Line
from deployment.gateway.metrics import MEDIA_TYPE, Metrics
from deployment.gateway.page import rendered_page
from deployment.gateway.problems import MEDIA_TYPE as PROBLEM
from deployment.gateway.problems import Problem
from deployment.gateway.settings import GatewaySettings

_TITLE = "gemmill gateway"
_ABOUT = "Audit commands in, strict JSON out. Every error is an RFC 9457 problem."
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "Refused.", "content": {PROBLEM: {"schema": Problem.model_json_schema()}}},
    "5XX": {"description": "No answer now.", "content": {PROBLEM: {"schema": Problem.model_json_schema()}}},
}


def gateway_app(source: Source, settings: GatewaySettings) -> Guard:
    """The ASGI application that serves the model of ``source``, which is open once this returns and closed when the
    application is shut down. Raises as ``source`` does."""
    metrics, rate = Metrics(), Rate(settings.rate)
    backend, line = Backend(source), Line(slots=settings.parallel, queue=settings.queue)
    metrics.watch(queue=lambda: line.length, openings=lambda: backend.openings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(backend.close)
        line.close()

    app = FastAPI(
        title=_TITLE,
        version=metadata.version("gemmill"),
        description=_ABOUT,
        docs_url=None,  # its page comes from a content delivery network
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        responses=_PROBLEMS,
    )
    add_handlers(app, metrics)
    asking = Asking(backend, line, metrics, settings)
    _add_answers(app, asking, rate)
    _add_chat(app, asking, backend)
    _add_watching(app, asking, metrics)
    _add_page(app, backend, metrics, settings)
    routes = {str(getattr(route, "path", "")) for route in app.routes}
    return Guard(app, routes, settings=settings, metrics=metrics, rate=rate)


def _add_answers(app: FastAPI, asking: Asking, rate: Rate) -> None:
    @app.post("/v1/audit", tags=["answers"], responses=examples.ANSWER)
    async def audit(body: Audit) -> Answer:
        """The answer to a command; one that the model has none to says why by its ``failure``."""
        return await asking.answer(body.command)

    @app.post(BATCH, tags=["answers"])
    async def audit_batch(body: Batch, request: Request) -> list[Answer]:
        """The answers in the order of the commands. Counts as so many requests."""
        rate.charge(request.scope["client_name"], len(body.commands) - 1)
        return await asking.answer_many(body.commands)

    @app.post("/v1/audit/stream", tags=["answers"], response_class=StreamingResponse, responses=examples.STREAM)
    async def audit_stream(body: Audit) -> Response:
        """The answer as server-sent events: one for each field that has become certain, and the whole one last, which
        is ``done``. An event named ``error`` is a problem that ends the stream."""
        return StreamingResponse(await events(asking.stream(body.command)), media_type=EVENTS)


def _add_chat(app: FastAPI, asking: Asking, backend: Backend) -> None:
    @app.post("/v1/chat/completions", tags=["OpenAI"], responses=examples.CHAT)
    async def chat_completions(body: Chat) -> Response:
        """The answer to the last message of the user, as OpenAI's clients expect it."""
        answer = await asking.complete(body)
        if not body.stream:
            return JSONResponse(chat.completion(answer, backend.name))
        lines = [f"data: {examples.compact(chunk)}\n\n" for chunk in chat.chunks(answer, backend.name)]
        return Response("".join([*lines, f"data: {chat.DONE}\n\n"]), media_type=EVENTS)

    @app.get("/v1/models", tags=["OpenAI"])
    async def models() -> Json:
        """The one model that is served here."""
        return chat.model_list(backend.name)


def _add_watching(app: FastAPI, asking: Asking, metrics: Metrics) -> None:
    @app.get("/healthz", tags=["watching"])
    async def healthz() -> Json:
        """That the gateway runs."""
        return {"status": "alive"}

    @app.get("/readyz", tags=["watching"])
    async def readyz() -> Json:
        """That the model answers: it did a moment ago, or does now."""
        await asking.require_ready()
        return {"status": "ready"}

    @app.get("/metrics", tags=["watching"], response_class=Response)
    async def prometheus() -> Response:
        """What was counted, as Prometheus reads it."""
        return Response(metrics.text(), media_type=MEDIA_TYPE)


def _add_page(app: FastAPI, backend: Backend, metrics: Metrics, settings: GatewaySettings) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return rendered_page(backend.name, backend.labels, needs_key=settings.keys is not None)

    @app.post("/v1/feedback", status_code=201, tags=["answers"])
    async def feedback(body: Annotated[Correction, Body()]) -> Json:
        """Keep what an answer should have been, for the next training."""
        await asyncio.to_thread(partial(body.append_to, settings.feedback))
        metrics.corrected()
        return {"status": "kept"}
