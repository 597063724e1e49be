"""Bring audit data into the store and freeze the dataset as a snapshot."""

import logging
from pathlib import Path

from prefect import task

from registry.audit_store import AuditStore
from registry.snapshots import Snapshot
from registry.snapshots import take_snapshot as freeze
from tasks.records import snapshot_labels, snapshot_records

logger = logging.getLogger(__name__)


@task
def take_snapshot(database_url: str, dataset: str, folder: Path) -> Snapshot:
    """The rows of ``dataset`` as they are now; golden commands that are no test row are told.

    Raises DataRefused where there are no rows.
    """
    with AuditStore(database_url) as store:
        snapshot = freeze(store, dataset, folder)
    asked = {record.command.strip() for record in snapshot_records(snapshot, "test")}
    for command in snapshot_labels(snapshot).golden:
        if command.strip() not in asked:
            logger.warning("golden command %r is not in the test split of %s; it is left out", command, dataset)
    return snapshot
