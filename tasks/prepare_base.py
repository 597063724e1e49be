"""Bring a base model to this machine as a Hugging Face folder."""

from pathlib import Path

from prefect import task

from registry.artifacts import Artifact
from registry.snapshots import Snapshot
from tasks.bases.resolve import resolve_base
from tasks.bases.spec import StartingBase
from tasks.records import snapshot_labels, snapshot_records


@task
def prepare_base(base: StartingBase, snapshot: Snapshot, cache: Path) -> Artifact:
    """The folder of ``base`` with its digest; what has to be made is made once and found again under ``cache``."""
    records = snapshot_records(snapshot, "train")
    folder = resolve_base(base, cache, records=records, labels=snapshot_labels(snapshot), key=snapshot.sha256)
    return Artifact.of("base", folder)
