"""Which commands stand for a model: they are shown after a retrain, and each device is tried with them."""

from collections.abc import Sequence

from tasks.evaluation.report import EvaluatedRow


def golden_rows(rows: Sequence[EvaluatedRow], named: Sequence[str]) -> list[EvaluatedRow]:
    """``rows`` with those of the commands ``named`` first, in that order and whatever was answered, then right ones."""
    places = {command.strip(): place for place, command in enumerate(named)}
    return sorted(rows, key=lambda row: (places.get(row.command.strip(), len(places)), not row.ok))
