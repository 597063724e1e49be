"""What becomes of an error that nobody expected: a sentence with its exit code, or a log file of a fault of gemmill."""

import errno
import sqlite3
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx

from registry.errors import GemmillError, ServiceUnavailable, UsageError
from registry.files import write_text
from registry.home import Home
from registry.urls import masked

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_PLACE = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}  # only a path that a user gave leads there
# as SQLite, safetensors, torch and CUDA say it, each in an error class that says nothing
_DISK_FULL_TEXTS = ("disk is full", "no space left on device", "storagefull")
_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
_PREFECT_TEXTS = ("failed to reach api at", "attempting to connect to ephemeral prefect api")


def as_expected(error: BaseException) -> GemmillError | None:
    """The error of one sentence that ``error``, or what led to it, amounts to; None for a fault of gemmill."""
    for cause in _causes(error):
        found = cause if isinstance(cause, GemmillError) else _of_the_machine(cause) or _of_a_service(cause)
        if found:
            return found
    return None


def write_log(error: BaseException, home: Home) -> Path:
    """A file of the home with the traceback, without passwords. Raises UsageError where none can be written."""
    moment = datetime.now(UTC)
    path = home.made().path / "logs" / f"{moment:%Y%m%d-%H%M%S-%f}.log"
    text = "".join(traceback.format_exception(error))
    write_text(path, masked(f"{moment.isoformat(timespec='seconds')}\n{text}"))
    return path


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _of_the_machine(error: BaseException) -> UsageError | None:
    said = str(error).lower()
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError | OSError) and _says(said, _MEMORY_TEXTS)):
        return UsageError(
            "This machine has not enough memory for it; end other programs, or set a smaller batch_size, slots or base "
            "in the profile."
        )
    full = isinstance(error, OSError) and error.errno in _DISK_FULL
    if full or (not isinstance(error, OSError) and _says(said, _DISK_FULL_TEXTS)):
        named = f" for {error.filename}" if isinstance(error, OSError) and error.filename else ""
        return UsageError(f"The disk has no room left{named}; make room and run this again, finished steps are kept.")
    if isinstance(error, OSError) and error.errno in _NOT_ALLOWED and error.filename:
        return UsageError(
            f"{error.filename} cannot be used: {error.strerror}; change its rights or name another place."
        )
    if isinstance(error, OSError) and error.errno in _NO_PLACE and error.filename:
        return UsageError(f"{error.filename} cannot be used: {error.strerror}; name another place.")
    return None


def _of_a_service(error: BaseException) -> ServiceUnavailable | None:
    said = str(error).strip().partition("\n")[0].rstrip(".")
    if _says(said.lower(), _PREFECT_TEXTS):
        return ServiceUnavailable(
            f"Prefect's server is out of reach: {said}; start the one that PREFECT_API_URL names, or unset it."
        )
    if isinstance(error, httpx.TransportError):
        return ServiceUnavailable(f"A server is out of reach: {said or type(error).__name__}.")
    if isinstance(error, httpx.HTTPStatusError) and error.response.is_server_error:
        return ServiceUnavailable(f"A server failed: {said}; see its log, then run this again.")
    if isinstance(error, sqlite3.OperationalError) and "locked" in said:
        return ServiceUnavailable("Another process holds a database of the home; run this again when it is done.")
    return None


def _says(text: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in text for phrase in phrases)
