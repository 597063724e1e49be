"""Reports as single HTML files: style inside, no script, nothing fetched."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from data_checks.contract import Response, parse_answer

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """Fill a template of this package; text from records and models is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "points": points,
        "position": position,
        "parsed": parse_answer,
    }
    environment.globals["entity_pairs"] = entity_pairs
    return environment.get_template(template).render(**values)


def percent(share: float | None) -> str:
    return "n/a" if share is None else f"{100 * share:.1f} %"


def points(difference: float | None) -> str:
    """A difference of shares in percentage points, always with its sign."""
    return "n/a" if difference is None else f"{100 * difference:+.1f}".replace("-", "−")


def position(difference: float, reach: float) -> float:
    """Where a difference lies on an axis from ``-reach`` to ``reach``, in percent of its width."""
    return 50 + 50 * difference / reach


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
