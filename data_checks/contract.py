"""The record contract held against files: each line of JSON Lines becomes a record or a problem.

What a record is, and the JSON Schema of its answers, is in registry.records.
"""

import codecs
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from registry.errors import UsageError, validation_message
from registry.files import write_text
from registry.records import LabelSet, Record


def read_jsonl(path: Path, labels: LabelSet | None = None) -> tuple[list[Record], list["Problem"]]:
    """Every sound record of a JSON Lines file and a problem for each line that is not.

    Raises UsageError where the file cannot be read at all.
    """
    try:
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    records: list[Record] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = Record.model_validate_json(line)
        except ValidationError as error:
            problems.append(Problem(file=path.name, line=number, reason=validation_message(error)))
            continue
        faults = labels.problems(record.response) if labels else []
        if faults:
            problems.append(Problem(file=path.name, line=number, reason="; ".join(faults)))
        else:
            records.append(record)
    return records, problems


class Problem(BaseModel):
    """A line of an audit file that was refused, and why."""

    model_config = ConfigDict(frozen=True)

    file: str
    line: int
    reason: str


def write_jsonl(path: Path, records: Sequence[Record]) -> None:
    """Write ``records`` as JSON Lines, unset fields left out."""
    text = "".join(record.model_dump_json(exclude_defaults=True) + "\n" for record in records)
    write_text(path, text)
