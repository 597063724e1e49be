"""The tables of the audit store and how its database is opened."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from registry.errors import ServiceUnavailable, UsageError
from registry.store.databases import open_engine
from registry.urls import masked

_LOCK_SECONDS = 60  # how long one process waits for another that writes

metadata = sa.MetaData()
batches = sa.Table(
    "batches",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("dataset", sa.String(200), nullable=False, index=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("ingested_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("rows_read", sa.Integer, nullable=False),
    sa.Column("rows_new", sa.Integer, nullable=False),
)
records = sa.Table(
    "records",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("dataset", sa.String(200), nullable=False),
    sa.Column("split", sa.String(20), nullable=False),
    sa.Column("command", sa.Text, nullable=False),
    sa.Column("command_sha256", sa.String(64), nullable=False),
    sa.Column("variant_sha256", sa.String(64), nullable=False),  # of the command without letter case and spacing
    sa.Column("digest", sa.String(64), nullable=False),  # of command and answer
    sa.Column("response", sa.JSON, nullable=False),
    sa.Column("details", sa.JSON, nullable=False),  # the record's other fields
    sa.Column("batch_id", sa.ForeignKey("batches.id"), nullable=False),
    sa.UniqueConstraint("dataset", "command_sha256"),
    sa.Index("ix_records_variant", "dataset", "variant_sha256"),
)
label_sets = sa.Table(
    "label_sets",
    metadata,
    sa.Column("dataset", sa.String(200), primary_key=True),
    sa.Column("toml", sa.Text, nullable=False),
)
snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("dataset", sa.String(200), primary_key=True),
    sa.Column("snapshot_id", sa.String(12), primary_key=True),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("used_at", sa.DateTime(timezone=True)),
)


class Database:
    """A database by its SQLAlchemy URL, with the tables made where they are missing.

    Raises UsageError for a URL that means nothing or another kind of file, ServiceUnavailable where the
    database is out of reach.
    """

    def __init__(self, url: str) -> None:
        self.url = masked(url)
        self._engine = open_engine(url, "audit")
        if self._engine.dialect.name == "sqlite":
            _prepare_sqlite(self._engine, self._engine.url.database)
        with self.transaction(writes=True) as connection:
            metadata.create_all(connection)

    @contextmanager
    def transaction(self, *, writes: bool = False) -> Iterator[sa.Connection]:
        """Everything inside is stored, or on an error nothing."""
        try:
            with self._engine.execution_options(writes=writes).begin() as connection:
                yield connection
        except OperationalError as error:
            if "disk is full" in str(error.orig):
                raise UsageError(
                    f"The disk of the audit store {self.url} is full; nothing was stored, make room."
                ) from error
            raise ServiceUnavailable(f"the audit store {self.url} cannot be reached: {error.orig}.") from error
        except IntegrityError as error:
            raise ServiceUnavailable(
                f"the audit store {self.url} was written to at the same moment; run this again."
            ) from error
        except DatabaseError as error:
            raise UsageError(f"{self.url} is not an audit store: {error.orig}.") from error

    def close(self) -> None:
        """Give up every connection."""
        self._engine.dispose()


def _prepare_sqlite(engine: sa.Engine, file: str | None) -> None:
    """Write-ahead logging, foreign keys, and a write lock from the start of a writing transaction.

    Without the early lock two processes that both read first and write later could not both finish.
    """
    if file and file != ":memory:":
        if file.startswith("file:"):
            file = unquote(file.removeprefix("file:").partition("?")[0])
        try:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"the folder of {file} cannot be made: {error.strerror}.") from error

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: object) -> None:
        connection.isolation_level = None  # SQLAlchemy says BEGIN itself, below
        for setting in (f"busy_timeout={_LOCK_SECONDS * 1000}", "journal_mode=WAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {setting}")

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
