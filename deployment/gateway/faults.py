"""What becomes of an error in a route: a problem of one or two sentences, counted."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from deployment.gateway.metrics import Metrics
from deployment.gateway.problems import Refused, invalid_body, problem_response, told, unavailable
from registry.errors import GemmillError, ServiceUnavailable

_DETAILS = {
    HTTPStatus.NOT_FOUND: "There is nothing at this address; /openapi.json lists what there is.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This address is not asked by this method; /openapi.json lists those that it takes.",
    HTTPStatus.BAD_REQUEST: "The body cannot be read; send JSON in UTF-8.",
}


def as_refused(error: GemmillError) -> Refused:
    """An error of the model, without the addresses and paths that it can name."""
    if isinstance(error, ServiceUnavailable):
        return unavailable("The model does not answer at the moment; ask again in a moment.", reason="model")
    return Refused(
        HTTPStatus.BAD_GATEWAY, "The model's server refused the command; the gateway's log says why.", reason="model"
    )


def add_handlers(app: FastAPI, metrics: Metrics) -> None:
    """Tell every error of a route as a problem."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)  # noqa: S101 - as it is registered
        metrics.refused(error.reason)
        return told(error)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        metrics.refused("body")
        return problem_response(HTTPStatus.BAD_REQUEST, invalid_body(error.errors()))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        detail = _DETAILS.get(HTTPStatus(error.status_code), f"{HTTPStatus(error.status_code).phrase}.")
        return problem_response(error.status_code, detail, error.headers)

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, _unexpected)


async def _unexpected(request: Request, error: Exception) -> Response:
    return problem_response(
        HTTPStatus.INTERNAL_SERVER_ERROR, "The gateway met a fault of its own; its log tells which."
    )
