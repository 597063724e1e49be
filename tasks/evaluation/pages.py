"""The pages of answers: an evaluation's and a comparison's."""

from pathlib import Path
from typing import Any

from registry.records import Response
from tasks.reports import page

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """Fill a template of this folder."""
    return page.render(_TEMPLATES / template, entity_pairs=entity_pairs, **values)


def entity_pairs(expected: Response, got: Response | None) -> list[tuple[str, str, str]]:
    """(type, value, "hit", "missing" or "extra") of all entities of both, types in the record's order."""
    wanted = expected.entity_values()
    found = got.entity_values() if got else set()
    kinds = {"hit": wanted & found, "missing": wanted - found, "extra": found - wanted}
    types = dict.fromkeys([*expected.entities, *(got.entities if got else ())])
    return [
        (name, value, kind)
        for name in types
        for kind, pairs in kinds.items()
        for value in sorted(value for pair_name, value in pairs if pair_name == name)
    ]
