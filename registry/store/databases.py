"""Databases of the user's choice: opened so that what is wrong with them is told at once."""

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError

from registry.errors import ServiceUnavailable, UsageError
from registry.urls import masked

_CONNECT_SECONDS = 5
_WITH_TIMEOUT = {"psycopg", "psycopg2", "pymysql", "mysqldb"}  # drivers that call it connect_timeout


def open_engine(url: str, what: str) -> sa.Engine:
    """The engine of a database that has yet to be asked anything; ``what`` it is stands in the errors.

    Raises UsageError for a URL that means nothing, or whose driver is not installed.
    """
    try:
        parsed = sa.make_url(url)
    except ArgumentError as error:
        raise UsageError(
            f"the database URL of {what} cannot be read; it should be like sqlite:///{what}.db."
        ) from error
    try:
        patience = {"connect_timeout": _CONNECT_SECONDS} if _driver(parsed) in _WITH_TIMEOUT else {}
        return sa.create_engine(parsed, connect_args=patience)
    except (NoSuchModuleError, ImportError) as error:
        raise UsageError(f"{masked(url)} needs a database driver that is not installed: {error}.") from error


def require_database(url: str, what: str) -> None:
    """Raise what :func:`open_engine` does, and ServiceUnavailable where no connection can be made."""
    engine = open_engine(url, what)
    try:
        with engine.connect():
            pass
    except OperationalError as error:
        raise ServiceUnavailable(f"the database of {what}, {masked(url)}, cannot be reached: {error.orig}.") from error
    finally:
        engine.dispose()


def _driver(url: sa.URL) -> str:
    return url.get_dialect().driver
