"""Data Docs that open without a network.

Great Expectations' pages take styles, icons and the whole index table from other hosts. The pages are kept;
what they would fetch is replaced by one small style sheet and a plain index.
"""

import re
import shutil
from html import escape
from pathlib import Path
from typing import NamedTuple

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
.d-none, .cooltip .top, .modal { display: none; }
ul { list-style: none; padding-left: 0; }
.text-success { color: #1a7f37; } .text-danger { color: #b42318; }
.fa-check-circle::before { content: "\\2714"; } .fa-times::before { content: "\\2718"; }
"""


class Page(NamedTuple):
    """What the index says of a suite."""

    suite: str
    passed: bool
    checks: int


def make_readable_offline(site: Path, pages: list[Page], title: str) -> None:
    """Rewrite the pages below ``site`` so that they fetch nothing, and write their index."""
    for path in site.rglob("*.html"):
        text = _FETCHED.sub("", path.read_text(encoding="utf-8"))
        path.write_text(text.replace("</head>", f"<style>{_STYLE}</style></head>", 1), encoding="utf-8")
    shutil.rmtree(site / "static", ignore_errors=True)
    (site / "index.html").write_text(_index(site, pages, title), encoding="utf-8")


def _index(site: Path, pages: list[Page], title: str) -> str:
    rows = "".join(
        f"<tr><td>{_verdict(page.passed)}</td><td><a href='{escape(_validation_page(site, page.suite))}'>"
        f"{escape(page.suite)}</a></td><td>{page.checks}</td>"
        f"<td><a href='expectations/{escape(page.suite)}.html'>expectations</a></td></tr>"
        for page in pages
    )
    return (
        f"<!DOCTYPE html><html><head><meta charset='UTF-8'><title>{escape(title)}</title>"
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        "<table><tr><th>verdict</th><th>table</th><th>expectations</th><th>suite</th></tr>"
        f"{rows}</table></body></html>\n"
    )


def _verdict(passed: bool) -> str:
    word, colour = ("passed", "success") if passed else ("failed", "danger")
    return f"<span class='text-{colour}'>{word}</span>"


def _validation_page(site: Path, suite: str) -> str:
    """The page of the one validation of ``suite``, whose folders carry the time of the run."""
    return next((site / "validations" / suite).rglob("*.html")).relative_to(site).as_posix()
