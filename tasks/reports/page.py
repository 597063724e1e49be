"""Pages for people as single HTML files: style inside, no script, nothing fetched."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: Path, **values: Any) -> str:
    """Fill a template, which extends ``page.html.j2``; text from records and models is escaped."""
    environment = Environment(
        loader=FileSystemLoader((template.parent, _TEMPLATES)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "points": points, "megabytes": megabytes}
    return environment.get_template(template.name).render(**values)


def percent(share: float | None) -> str:
    return "n/a" if share is None else f"{100 * share:.1f} %"


def points(difference: float | None) -> str:
    """A difference of shares in percentage points, always with its sign."""
    return "n/a" if difference is None else f"{100 * difference:+.1f}".replace("-", "−")


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"
