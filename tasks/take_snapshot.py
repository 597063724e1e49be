"""Bring audit data into the store and freeze the dataset as a snapshot."""

from pathlib import Path

from prefect import task

from registry.audit_store import AuditStore
from registry.snapshots import Snapshot
from registry.snapshots import take_snapshot as freeze


@task
def take_snapshot(database_url: str, dataset: str, folder: Path) -> Snapshot:
    """The rows of ``dataset`` as they are now. Raises DataRefused where there are none."""
    with AuditStore(database_url) as store:
        return freeze(store, dataset, folder)
