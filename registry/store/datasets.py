"""The audit store: every labelled command that was ingested, by dataset.

Rows are only ever added. A command that comes again with the same answer is known already; with another
answer it is a conflict, which is reported and not stored.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict

from registry.errors import UsageError
from registry.names import require_name
from registry.records import SPLITS
from registry.store.offers import Conflict, Offer, Stored, sort_out
from registry.store.tables import Database, batches, label_sets, records, snapshots

_LOOKUP = 400  # commands in one query; SQLite's lowest limit is 999 variables


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class IngestReport(_Frozen):
    """What an ingestion did.

    ``read = new + known + len(conflicts)``; ``joined`` of the new rows went into the split that already held
    the same command in other letter case or spacing. ``rows`` is the whole dataset afterwards, by split.
    """

    dataset: str
    source: str
    read: int
    new: int
    known: int
    joined: int
    conflicts: list[Conflict]
    rows: dict[str, int]


class Due(_Frozen):
    """Whether enough rows have landed since the last snapshot that was trained on."""

    due: bool
    new_rows: int
    minimum_rows: int
    since_snapshot: str | None


class Row(NamedTuple):
    """A labelled command of a dataset; ``response`` is the contract's JSON object."""

    split: str
    command: str
    response: dict[str, Any]
    digest: str


class AuditStore:
    """The audit store behind a SQLAlchemy ``url``; raises what ``registry.store.tables.Database`` does."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up every connection."""
        self._database.close()

    def ingest(
        self, dataset: str, rows: Iterable[tuple[str, Mapping[str, Any]]], *, source: str, labels: str
    ) -> IngestReport:
        """Add ``rows``, each a split with a record of the contract; ``labels`` (TOML) becomes the label set.

        All of it is stored or nothing is. The same rows again change nothing. Raises UsageError for a name that files
        could not have.
        """
        require_name(dataset, "dataset")
        offered = [Offer.of(split, record) for split, record in rows]
        with self._database.transaction(writes=True) as connection:
            _store_labels(connection, dataset, labels)
            found = sort_out(offered, _stored_variants(connection, dataset, offered))
            if found.new:
                batch_id = connection.execute(
                    batches.insert()
                    .values(
                        dataset=dataset,
                        source=source,
                        ingested_at=datetime.now(UTC),
                        rows_read=len(offered),
                        rows_new=len(found.new),
                    )
                    .returning(batches.c.id)
                ).scalar_one()
                connection.execute(
                    records.insert(),
                    [{**vars(offer), "dataset": dataset, "batch_id": batch_id} for offer in found.new],
                )
            return IngestReport(
                dataset=dataset,
                source=source,
                read=len(offered),
                new=len(found.new),
                known=found.known,
                joined=found.joined,
                conflicts=found.conflicts,
                rows=_row_counts(connection, dataset),
            )

    def datasets(self) -> list[str]:
        """Every dataset that holds rows, by name."""
        with self._database.transaction() as connection:
            return list(connection.scalars(sa.select(records.c.dataset).distinct().order_by(records.c.dataset)))

    def rows(self, dataset: str) -> list[Row]:
        """Every row of a dataset in an order that depends on their content alone."""
        query = (
            sa.select(records.c.split, records.c.command, records.c.response, records.c.digest)
            .where(records.c.dataset == dataset)
            .order_by(records.c.digest)
        )
        with self._database.transaction() as connection:
            return [Row(*row) for row in connection.execute(query)]

    def labels(self, dataset: str) -> str | None:
        """The dataset's label set as TOML, None where nothing was ingested yet."""
        with self._database.transaction() as connection:
            return connection.scalar(sa.select(label_sets.c.toml).where(label_sets.c.dataset == dataset))

    def note_snapshot(self, dataset: str, snapshot_id: str, rows: int) -> None:
        """Remember that a snapshot of ``rows`` rows was taken; taking it again changes nothing."""
        with self._database.transaction(writes=True) as connection:
            if _snapshot_rows(connection, dataset, snapshot_id) is None:
                connection.execute(
                    snapshots.insert().values(
                        dataset=dataset, snapshot_id=snapshot_id, rows=rows, taken_at=datetime.now(UTC)
                    )
                )

    def mark_snapshot_used(self, dataset: str, snapshot_id: str) -> None:
        """Remember that a model was trained on this snapshot. Raises UsageError where it was never taken."""
        with self._database.transaction(writes=True) as connection:
            _required_snapshot_rows(connection, dataset, snapshot_id)
            connection.execute(
                snapshots.update()
                .where(snapshots.c.dataset == dataset, snapshots.c.snapshot_id == snapshot_id)
                .values(used_at=datetime.now(UTC))
            )

    def due(self, dataset: str, minimum_rows: int) -> Due:
        """Whether at least ``minimum_rows`` rows landed since the fullest snapshot that was trained on."""
        query = (
            sa.select(snapshots.c.snapshot_id, snapshots.c.rows)
            .where(snapshots.c.dataset == dataset, snapshots.c.used_at.is_not(None))
            .order_by(snapshots.c.rows.desc(), snapshots.c.used_at.desc())
        )
        with self._database.transaction() as connection:
            used = connection.execute(query).first()
            total = sum(_row_counts(connection, dataset).values())
        new_rows = total - (used.rows if used else 0)
        return Due(
            due=new_rows >= minimum_rows,
            new_rows=new_rows,
            minimum_rows=minimum_rows,
            since_snapshot=used.snapshot_id if used else None,
        )


def _store_labels(connection: sa.Connection, dataset: str, labels: str) -> None:
    updated = connection.execute(label_sets.update().where(label_sets.c.dataset == dataset).values(toml=labels))
    if not updated.rowcount:
        connection.execute(label_sets.insert().values(dataset=dataset, toml=labels))


def _stored_variants(connection: sa.Connection, dataset: str, offers: Iterable[Offer]) -> Iterator[Stored]:
    """The rows of ``dataset`` whose commands are among ``offers``, letter case and spacing aside."""
    wanted = sorted({offer.variant_sha256 for offer in offers})
    columns = (records.c.split, records.c.command_sha256, records.c.variant_sha256, records.c.response)
    for start in range(0, len(wanted), _LOOKUP):
        query = sa.select(*columns).where(
            records.c.dataset == dataset, records.c.variant_sha256.in_(wanted[start : start + _LOOKUP])
        )
        for row in connection.execute(query):
            yield Stored(*row)


def _row_counts(connection: sa.Connection, dataset: str) -> dict[str, int]:
    query = sa.select(records.c.split, sa.func.count()).where(records.c.dataset == dataset).group_by(records.c.split)
    counts = {split: count for split, count in connection.execute(query)}  # noqa: C416 (a Row is a tuple to dict only)
    return {split: counts.get(split, 0) for split in SPLITS}


def _snapshot_rows(connection: sa.Connection, dataset: str, snapshot_id: str) -> int | None:
    return connection.scalar(
        sa.select(snapshots.c.rows).where(snapshots.c.dataset == dataset, snapshots.c.snapshot_id == snapshot_id)
    )


def _required_snapshot_rows(connection: sa.Connection, dataset: str, snapshot_id: str) -> int:
    rows = _snapshot_rows(connection, dataset, snapshot_id)
    if rows is None:
        raise UsageError(f"snapshot {snapshot_id} of dataset {dataset!r} was never taken from this audit store.")
    return rows
