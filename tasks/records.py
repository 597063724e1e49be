"""The records and labels of a snapshot, as every step reads them."""

from data_checks.contract import read_jsonl
from registry.records import LabelSet, Record, load_label_set
from registry.snapshots import Snapshot


def snapshot_labels(snapshot: Snapshot) -> LabelSet:
    return load_label_set(snapshot.labels)


def snapshot_records(snapshot: Snapshot, split: str) -> list[Record]:
    """The records of a split; a snapshot holds sound ones only, its digest says so."""
    records, _ = read_jsonl(snapshot.split(split), snapshot_labels(snapshot))
    return records
