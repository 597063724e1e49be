"""Data Docs that open without a network.

Great Expectations' pages take styles, icons and the whole index table from other hosts. The pages are kept;
what they would fetch is replaced by one small style sheet and a plain index.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from data_checks.check_report import CheckedExpectation

_FETCHED = re.compile(
    r"<script\b.*?</script>|<style\b.*?</style>|<link\b[^>]*>|<img\b[^>]*>|<footer\b.*?</footer>|<button\b.*?</button>"
    r"|<label\b.*?</label>",
    re.DOTALL,
)
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem; color: #1d2733; }
table { border-collapse: collapse; margin: .5rem 0 1rem; }
td, th { border: 1px solid #c8d0d8; padding: .3rem .6rem; text-align: left; vertical-align: top; }
.ge-section { border-top: 1px solid #c8d0d8; padding: .6rem 0; }
.alert { font-size: 1.1rem; padding: .3rem 0; }
.badge { background: #e6eaee; border-radius: .2rem; padding: 0 .3rem; }
.sticky, .cooltip .top, .modal { display: none; }
.navbar { height: auto !important; }
ul { list-style: none; padding-left: 0; }
.text-success { color: #1a7f37; } .text-danger { color: #b42318; }
.fa-check-circle::before { content: "\\2714"; } .fa-times::before { content: "\\2718"; }
"""


def make_readable_offline(site: Path) -> None:
    """Rewrite the pages below ``site`` so that they fetch nothing."""
    for path in site.rglob("*.html"):
        text = _FETCHED.sub("", path.read_text(encoding="utf-8"))
        path.write_text(text.replace("</head>", f"<style>{_STYLE}</style></head>", 1), encoding="utf-8")
    shutil.rmtree(site / "static", ignore_errors=True)


def write_index(site: Path, checks: Mapping[str, Sequence[CheckedExpectation]], title: str) -> None:
    """Write index.html: every expectation with what was seen, each suite linked to its pages."""
    rows = "".join(
        f"<tr><td>{_verdict(check.passed)}</td><td>{_link(_validation_page(site, suite), suite)}</td>"
        f"<td>{escape(check.name)}</td><td>{escape(check.expected)}</td><td>{escape(check.observed)}</td></tr>"
        for suite, found in checks.items()
        for check in found
    )
    suites = ", ".join(_link(f"expectations/{suite}.html", suite) for suite in checks)
    head = "".join(f"<th>{name}</th>" for name in ("verdict", "table", "expectation", "expected", "observed"))
    page = (
        f"<!DOCTYPE html><html><head><meta charset='UTF-8'><title>{escape(title)}</title>"
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"<table><tr>{head}</tr>{rows}</table><p>Expectation suites: {suites}</p></body></html>\n"
    )
    (site / "index.html").write_text(page, encoding="utf-8")


def _link(target: str, text: str) -> str:
    return f"<a href='{escape(target)}'>{escape(text)}</a>"


def _verdict(passed: bool) -> str:
    word, colour = ("passed", "success") if passed else ("failed", "danger")
    return f"<span class='text-{colour}'>{word}</span>"


def _validation_page(site: Path, suite: str) -> str:
    """The page of the one validation of ``suite``, whose folders carry the time of the run."""
    return next((site / "validations" / suite).rglob("*.html")).relative_to(site).as_posix()
