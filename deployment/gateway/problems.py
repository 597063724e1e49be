"""Errors as the gateway tells them: RFC 9457 problems, each one sentence or two without any internals."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

MEDIA_TYPE = "application/problem+json"
_TOLD, _LOOKED_AT = 5, 100  # faults of a body, which can have tens of thousands
_LONGEST_MESSAGE = 200  # characters; it can hold a name, too
_LONGEST_NAME = 40  # characters of a field's name, which a client can send itself
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
    """The first faults of a body in one sentence: where, and what, without what was sent."""
    said = list(dict.fromkeys(_fault(fault["loc"][1:], fault["type"], fault["msg"]) for fault in faults[:_LOOKED_AT]))
    more = "; and more" if len(said) > _TOLD or len(faults) > _LOOKED_AT else ""
    return f"The request cannot be used: {'; '.join(said[:_TOLD])}{more}. See /openapi.json for its form."


def _fault(place: Sequence[int | str], kind: str, message: str) -> str:
    if kind == "json_invalid":
        return "the body is no JSON"
    if kind == "extra_forbidden":
        message = "this field is not known"
    message = message.removeprefix("Value error, ")
    where = ".".join(str(part)[:_LONGEST_NAME] for part in place) or "the body"
    return f"{where}: {message[:1].lower()}{message[1:_LONGEST_MESSAGE]}"
