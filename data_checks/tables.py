"""A snapshot as tables, in the shape in which expectations are said about it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from registry.records import OUT_OF_SCOPE, Record, normalised_answer, normalised_command

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = {
    "records": ("split", "command", "intent", "is_out_of_scope", "entity_values"),
    "commands": ("command", "splits", "answers"),
    "entities": ("split", "command", "entity_type", "value", "in_command"),
}


def snapshot_tables(records: Mapping[str, Sequence[Record]]) -> "dict[str, pd.DataFrame]":
    """Three tables of a snapshot's splits.

    - records: a row for each record, with its number of entity values
    - commands: a row for each command (letter case and spacing aside), with its splits and answers
    - entities: a row for each entity value, and whether it stands in the command (letter case aside)
    """
    import pandas as pd

    rows = {
        "records": _record_rows(records),
        "commands": _command_rows(records),
        "entities": _entity_rows(records),
    }
    return {name: pd.DataFrame(rows[name], columns=list(columns)) for name, columns in _COLUMNS.items()}


def _record_rows(records: Mapping[str, Sequence[Record]]) -> list[dict[str, Any]]:
    return [
        {
            "split": split,
            "command": record.command,
            "intent": record.response.intent,
            "is_out_of_scope": int(record.response.intent == OUT_OF_SCOPE),
            "entity_values": len(record.response.entity_values()),
        }
        for split, items in records.items()
        for record in items
    ]


def _command_rows(records: Mapping[str, Sequence[Record]]) -> list[dict[str, Any]]:
    splits: dict[str, set[str]] = defaultdict(set)
    answers: dict[str, set[object]] = defaultdict(set)
    for split, items in records.items():
        for record in items:
            command = normalised_command(record.command)
            splits[command].add(split)
            answers[command].add(normalised_answer(record.response.model_dump()))
    return [
        {"command": command, "splits": len(splits[command]), "answers": len(answers[command])} for command in splits
    ]


def _entity_rows(records: Mapping[str, Sequence[Record]]) -> list[dict[str, Any]]:
    return [
        {
            "split": split,
            "command": record.command,
            "entity_type": name,
            "value": value,
            "in_command": value.casefold() in record.command.casefold(),
        }
        for split, items in records.items()
        for record in items
        for name, value in sorted(record.response.entity_values())
    ]
