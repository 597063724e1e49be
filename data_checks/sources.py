"""Audit files: which records a path holds, in which split, and by which label set they are read."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_checks.contract import Problem, read_jsonl
from data_checks.refusals import LinesRefused
from registry.errors import DataRefused, UsageError
from registry.names import usable_name
from registry.records import SPLITS, LabelSet, Record, infer_label_set, load_label_set, normalised_command

logger = logging.getLogger(__name__)
_LABELS = "labels.toml"
_TENTHS = {
    "train": range(8),
    "validation": range(8, 9),
    "test": range(9, 10),
}  # of rows without a split: 80/10/10


class SplitRecord(NamedTuple):
    """A record with the split that it belongs to."""

    split: str
    record: Record


def find_files(paths: Sequence[Path]) -> list[Path]:
    """The JSON Lines files that ``paths`` are or hold. Raises UsageError for a path that gives none."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.glob("*.jsonl") if not file.name.startswith("."))
            if not found:
                raise UsageError(f"folder {path} holds no *.jsonl file; audit data is one JSON record per line.")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise UsageError(f"{path} does not exist; name an audit file or a folder of them.")
    return files


def labels_beside(files: Sequence[Path]) -> LabelSet | None:
    """The labels.toml in the folder of ``files``, None where there is none.

    Raises UsageError where it is broken, or where two folders disagree.
    """
    found = sorted({path for file in files if (path := file.absolute().parent / _LABELS).exists()})
    label_sets = [load_label_set(path) for path in found]
    if any(labels != label_sets[0] for labels in label_sets):
        raise UsageError(f"{found[0]} and {found[-1]} differ; name the label set to use with --labels.")
    return label_sets[0] if label_sets else None


def dataset_name(paths: Sequence[Path], labels: LabelSet | None) -> str:
    """What the dataset of ``paths`` is called: as its label set, else as the folder, else as the file.

    Raises UsageError where the paths would give none or several names.
    """
    if labels:
        return labels.name
    names = {usable_name(_title(path.absolute())) for path in paths}
    if len(names) > 1:
        raise UsageError(f"the paths would be datasets {', '.join(sorted(names))}; name the one with --dataset.")
    return names.pop()


def _title(path: Path) -> str:
    if path.is_dir():
        return path.name
    return path.parent.name if path.stem in SPLITS else path.stem


def read_records(files: Sequence[Path], labels: LabelSet | None) -> list[SplitRecord]:
    """Every record of ``files`` with its split.

    A file called train.jsonl, validation.jsonl or test.jsonl is that split; a row of any other file has the
    split that its command gives, 80, 10 and 10 in a hundred. Raises LinesRefused where a line breaks the
    contract or ``labels``.
    """
    records: list[SplitRecord] = []
    problems: list[Problem] = []
    for file in files:
        sound, bad = read_jsonl(file, labels)
        problems += bad
        records += [SplitRecord(_split(file, record), record) for record in sound]
    if problems:
        raise LinesRefused(problems)
    if not records:
        raise DataRefused(f"{', '.join(file.name for file in files)}: no record in it, nothing was stored.")
    return records


def read_with_inferred_labels(name: str, files: Sequence[Path]) -> tuple[list[SplitRecord], LabelSet]:
    """Like :func:`read_records`, with the label set that the records themselves use."""
    labels = infer_label_set(name, (item.record.response for item in read_records(files, None)))
    logger.info(
        "No label set for %s: inferred %d intents and %d entity types from its records.",
        name, len(labels.intents), len(labels.entities),
    )  # fmt: skip
    return read_records(files, labels), labels


def _split(file: Path, record: Record) -> str:
    if file.stem in SPLITS:
        return file.stem
    tenth = int(hashlib.sha256(normalised_command(record.command).encode()).hexdigest(), 16) % 10
    return next(split for split, tenths in _TENTHS.items() if tenth in tenths)
