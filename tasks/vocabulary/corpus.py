"""What a vocabulary is counted over: labelled records as they are trained, and unlabelled texts.

Records of the test split never count, or the test would flatter a vocabulary that knows its words.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_checks.sources import labels_beside, read_records, read_with_inferred_labels
from data_checks.texts import read_texts
from registry.errors import UsageError
from registry.records import LabelSet, Record, load_label_set


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Records of one label set and texts; either may be empty."""

    records: Sequence[Record] = ()
    labels: LabelSet | None = None
    texts: Sequence[str] = ()


def read_corpus(paths: Sequence[Path], labels: Path | None = None) -> Corpus:
    """The records and texts in ``paths``: ``.jsonl`` and ``.txt`` files, or folders of them.

    Args:
        labels: label set of the records; None takes the labels.toml beside them, else what they use themselves.

    Raises:
        UsageError: a path gives no file, or there are only rows of the test split.
        LinesRefused: a line holds neither a sound record nor a text.
    """
    files = list(files_below(paths))
    labelled = [file for file in files if _is_labelled(file)]
    unlabelled = [file for file in files if file not in labelled]
    texts = read_texts(unlabelled) if unlabelled else []
    if not labelled:
        return Corpus(texts=texts)
    label_set = load_label_set(labels) if labels else labels_beside(labelled)
    if label_set:
        rows = read_records(labelled, label_set)
    else:
        rows, label_set = read_with_inferred_labels("corpus", labelled)
    records = [row.record for row in rows if row.split != "test"]
    if not records and not texts:
        raise UsageError(
            f"{', '.join(map(str, paths))} holds rows of the test split only, which do not count; add others."
        )
    return Corpus(records=records, labels=label_set.learnt(record.response for record in records), texts=texts)


def files_below(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        inside = [file for file in path.glob("*") if file.suffix in (".jsonl", ".txt")] if path.is_dir() else [path]
        if not inside:
            raise UsageError(f"{path} holds no .jsonl and no .txt file to count tokens in.")
        yield from sorted(inside)


def _is_labelled(file: Path) -> bool:
    """Whether the first line of ``file`` is a record and no text."""
    if file.suffix != ".jsonl" or not file.is_file():
        return False
    with file.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"")
    try:
        content = json.loads(first)
    except ValueError:
        return False
    return isinstance(content, dict) and "command" in content
