"""Instructions that can stand before a command, and what each is worth for a model."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from registry.errors import UsageError
from registry.records import OUT_OF_SCOPE, LabelSet
from tasks.evaluation.metrics import METRIC_TITLES, Metrics
from tasks.reports.page import percent

_SHOWN = ("json_validity", "intent_accuracy", "entity_f1", "exact_match", "oos_recall", "oos_precision")
_TASK = 'Answer the audit command with JSON: {"intent": ..., "entities": {type: value}}.'


def known_instructions(labels: LabelSet) -> dict[str, str]:
    """From no word to all that a label set tells, by name."""
    intents = ", ".join(intent for intent in labels.intents if intent != OUT_OF_SCOPE)
    labelled = f"{_TASK} Intents: {intents}. Entity types: {', '.join(labels.entities)}."
    rejecting = f"A command that is none of these has the intent {OUT_OF_SCOPE} and no entities."
    described = "\n".join(f"{name}: {told}" for name, told in labels.intents.items() if told)
    return {
        "none": "",
        "task": _TASK,
        "labels": labelled,
        "out of scope": f"{labelled} {rejecting}",
        **({"descriptions": f"{labelled} {rejecting}\n{described}"} if described else {}),
    }


def read_instructions(path: Path) -> dict[str, str]:
    """The instructions of a TOML file, ``name = "text"`` each. Raises UsageError where it holds something else."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}.") from error
    if wrong := [name for name, text in found.items() if not isinstance(text, str) or "\0" in text]:
        raise UsageError(f'{path} holds no text for {wrong[0]!r}; write {wrong[0]} = "text".')
    if not found:
        raise UsageError(f'{path} holds no instruction; write name = "text".')
    return found


def instruction_table(metrics: Mapping[tuple[str, str], Metrics], title: str) -> Table:
    """One row for each model and instruction."""
    table = Table(title=escape(title), title_justify="left")
    for column in ("model", "instruction"):
        table.add_column(column, overflow="fold")
    for name in _SHOWN:
        table.add_column(METRIC_TITLES[name], justify="right")
    for (model, name), figures in metrics.items():
        table.add_row(escape(model), escape(name), *(percent(getattr(figures, field)) for field in _SHOWN))
    return table
