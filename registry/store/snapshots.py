"""Snapshots: a dataset frozen as a folder of files, which is what models are trained and judged on.

The folder holds train.jsonl, validation.jsonl, test.jsonl, labels.toml and manifest.json. The label set says which
entity types have several values in a training row: they are lists in every answer that a model learns. The same rows
and label set give the same bytes and so the same id, whenever and from whatever files they were ingested.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from registry.errors import DataRefused, UsageError
from registry.files import atomic_directory, file_sha256
from registry.names import require_name
from registry.records import SPLITS, LabelSet, Record, Response, label_set_toml, load_label_set, parse_label_set

if TYPE_CHECKING:
    from registry.store.datasets import AuditStore, Row

_MANIFEST = "manifest.json"
_LABELS = "labels.toml"
_ID_LENGTH = 12  # digits of the digest


class Snapshot(BaseModel):
    """A frozen dataset; ``sha256`` is the digest of the data folder inside, ``id`` its first 12 digits."""

    model_config = ConfigDict(frozen=True)

    id: str
    dataset: str
    path: Path
    sha256: str
    rows: dict[str, int]

    def split(self, name: str) -> Path:
        """The JSON Lines file of a split."""
        return self.path / f"{name}.jsonl"

    def records(self, split: str) -> list[Record]:
        """The records of a split; a snapshot holds sound ones only, its digest says so."""
        lines = self.split(split).read_bytes().splitlines()
        return [Record.model_validate_json(line) for line in lines]

    @property
    def label_set(self) -> LabelSet:
        return load_label_set(self.path / _LABELS)


def take_snapshot(store: "AuditStore", dataset: str, folder: Path) -> Snapshot:
    """Freeze ``dataset`` as a folder inside ``folder``; the same rows again give the folder that is there.

    Raises DataRefused where the dataset holds nothing, UsageError where its name is none that a folder can have.
    """
    require_name(dataset, "dataset")
    rows, labels = store.rows(dataset), store.labels(dataset)
    if not rows or labels is None:
        known = ", ".join(store.datasets()) or "none"
        raise DataRefused(f"dataset {dataset!r} holds no rows (there are: {known}); ingest some first.")
    texts = {f"{split}.jsonl": _lines(row for row in rows if row.split == split) for split in SPLITS}
    trained = (Response.model_validate(row.response) for row in rows if row.split == "train")
    texts[_LABELS] = label_set_toml(parse_label_set(labels, f"of dataset {dataset}").learnt(trained))
    checksums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    digest = _digest(checksums)
    snapshot = Snapshot(
        id=digest[:_ID_LENGTH],
        dataset=dataset,
        path=folder / f"{dataset}-{digest[:_ID_LENGTH]}",
        sha256=digest,
        rows={split: sum(row.split == split for row in rows) for split in SPLITS},
    )
    if not (snapshot.path / _MANIFEST).exists():
        with atomic_directory(snapshot.path) as temporary:
            for name, text in texts.items():
                (temporary / name).write_bytes(text.encode())
            manifest = {**snapshot.model_dump(exclude={"path"}), "files": checksums}
            (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    store.note_snapshot(dataset, snapshot.id, len(rows))
    return load_snapshot(snapshot.path)


def load_snapshot(path: Path) -> Snapshot:
    """The snapshot in a folder. Raises UsageError where there is none or its files were changed."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        found = {name: file_sha256(path / name) for name in manifest.pop("files")}
        snapshot = Snapshot.model_validate({**manifest, "path": path})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not a snapshot: {error}. Take one from the audit store.") from error
    if _digest(found) != snapshot.sha256:
        raise UsageError(f"snapshot {path} was changed after it was taken; delete the folder and take it again.")
    return snapshot


def _lines(rows: Iterable["Row"]) -> str:
    """JSON Lines of commands and answers only: where a row came from must not change the snapshot."""
    return "".join(
        json.dumps({"command": row.command, "response": row.response}, ensure_ascii=False) + "\n" for row in rows
    )


def _digest(checksums: Mapping[str, str]) -> str:
    """SHA-256 of what ``sha256sum`` prints for the files, sorted by name."""
    return hashlib.sha256("".join(f"{checksums[name]}  {name}\n" for name in sorted(checksums)).encode()).hexdigest()
