"""A home that was moved or copied: MLflow keeps whole paths of artifacts, which then lie somewhere else.

Left as they are, a moved home would lose its packages, and a copy would read and overwrite those of the original.
"""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from registry.errors import ServiceUnavailable

logger = logging.getLogger(__name__)

_LOCK_SECONDS = 60  # how long to wait for another process that writes
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


def follow_moved_home(database: Path, artifacts: Path, noted: str) -> None:
    """Make every path in MLflow's SQLite ``database`` that begins with ``noted`` begin with ``artifacts``.

    ``noted`` is where the experiment's artifacts were when it was made. Nothing changes where that is no folder called
    as ``artifacts`` is, which somebody chose, or is the same folder by another path. All paths change, or none.
    """
    before, here = _folder(noted), artifacts.as_uri()
    if noted == here or before is None or before.name != artifacts.name or _same(before, artifacts):
        return
    try:
        with closing(sqlite3.connect(database, timeout=_LOCK_SECONDS)) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            for table, column in _LOCATIONS:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608  names of this module
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (here, len(noted) + 1, noted, len(noted) + 1, f"{noted}/"),
                )
    except sqlite3.Error as error:
        raise ServiceUnavailable(
            f"the home was moved here from {before.parent}, and the paths in {database} cannot be changed: {error}; "
            "run this again when nothing else uses the home."
        ) from error
    logger.info("The home was moved or copied here from %s; MLflow's paths now lead here.", before.parent)


def _folder(uri: str) -> Path | None:
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" and parts.netloc in ("", "localhost") else None


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
