"""Every error that a user can cause or must act on, with the exit code of the command that meets it.

A message is one or two sentences: what, which value, what to do next. Passwords of URLs in it are hidden.
"""

from typing import TYPE_CHECKING

from registry.urls import masked

if TYPE_CHECKING:
    from pydantic import ValidationError


class GemmillError(Exception):
    """Base of all expected errors; the command line prints the message and exits with ``exit_code``."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(masked(message))


class UsageError(GemmillError):
    """Bad usage, configuration or input file."""

    exit_code = 2


class NoAnswer(UsageError):
    """A command that a model cannot answer whole: it is too long, or its answer was broken off."""


class GateBlocked(GemmillError):
    """A gate failed: the candidate is registered with its verdict and goes no further."""

    exit_code = 3


class VerificationFailed(GemmillError):
    """A converted file is not the model that it was made from."""

    exit_code = 3


class DataRefused(GemmillError):
    """Audit data that breaks the record contract or the expectations of a snapshot."""

    exit_code = 4


class ServiceUnavailable(GemmillError):
    """A server (Ollama, MLflow, Prefect, a device) is out of reach."""

    exit_code = 5


def validation_message(error: "ValidationError") -> str:
    """All faults of a pydantic error in one line: where, and what."""
    faults = dict.fromkeys(_fault(item["loc"], item["type"], item["msg"]) for item in error.errors())
    return "; ".join(faults)


def _fault(place: tuple[int | str, ...], kind: str, message: str) -> str:
    if place[:2] == ("response", "entities") and len(place) > 3:  # both arms of str | list[str] report
        return f"response.entities.{place[2]}: must be a text or a list of texts"
    if kind == "extra_forbidden":
        message = "this field is not known"
    message = message.removeprefix("Value error, ").replace(" at line 1 column ", " at column ")
    return f"{'.'.join(map(str, place)) or 'record'}: {message}"
