"""Errors as the gateway tells them: RFC 9457 problems, each one sentence or two without any internals."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

MEDIA_TYPE = "application/problem+json"
AGAIN_SECONDS = 1  # after which a client may ask again where nothing better is known


class Problem(BaseModel):
    """What every error is told as."""

    title: str = Field(description="what the status means", examples=["Service Unavailable"])
    status: int = Field(examples=[503])
    detail: str = Field(description="what is wrong, and what to do", examples=["The queue is full; ask again later."])


class Refused(Exception):
    """A request that gets no answer: its status, a sentence, and ``reason``, by which refusals are counted."""

    def __init__(
        self, status: HTTPStatus, detail: str, *, reason: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.reason, self.headers = status, detail, reason, dict(headers or {})


def unavailable(detail: str, *, reason: str) -> Refused:
    """A 503 that says when to ask again."""
    return Refused(HTTPStatus.SERVICE_UNAVAILABLE, detail, reason=reason, headers={"Retry-After": str(AGAIN_SECONDS)})


def problem(status: int, detail: str) -> Problem:
    return Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)


def problem_response(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    content = problem(status, detail).model_dump()
    return JSONResponse(content, status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def told(refused: Refused) -> JSONResponse:
    return problem_response(refused.status, refused.detail, refused.headers)


def invalid_body(faults: Sequence[Mapping[str, Any]]) -> str:
    """The faults of a body in one sentence: where, and what, without what was sent."""
    said = dict.fromkeys(_fault(fault["loc"][1:], fault["type"], fault["msg"]) for fault in faults)
    return f"The request cannot be used: {'; '.join(said)}. See /openapi.json for its form."


def _fault(place: Sequence[int | str], kind: str, message: str) -> str:
    if kind == "json_invalid":
        return "the body is no JSON"
    if kind == "extra_forbidden":
        message = "this field is not known"
    message = message.removeprefix("Value error, ")
    return f"{'.'.join(map(str, place)) or 'the body'}: {message[:1].lower()}{message[1:]}"
