"""README and docs: their links, their commands, their examples, and the site made of them."""

import json
import re
import runpy
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import typer

from data_checks.contract import read_jsonl
from data_checks.sample import SAMPLE_DIR
from flows.cli import main as cli
from registry.records import answer_text, load_label_set

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
ROOMS = ("flows", "tasks", "registry", "deployment", "data_checks")
PAGES = sorted((ROOT / "docs").rglob("*.md"))
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_BENCHMARK = re.compile(r"-m (tests\.benchmarks\.[a-z]\w*)")
_PROGRAM = typer.main.get_command(cli.app)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub and mkdocs give to the headings of a page."""
    headings = _HEADING.findall(_FENCED.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", [README, ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_relative_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    broken = []
    for link in _LINK.findall(_FENCED.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_the_readme_is_read_in_minutes() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert not [line for line in lines if len(line) > 100]


def said(line: str) -> Iterator[list[str]]:
    """The words of each ``gemmill`` call in a line of code."""
    for call in re.split(r"&&|\|\||;", line):
        words = call.split()
        if words and words[0] == "gemmill":
            yield words[1:]


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_in_code_is_one_with_these_options(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code = [line for block in _FENCED.findall(text) for line in block.splitlines()]
    code += [line.strip() for line in text.splitlines() if line.startswith("    ")]
    for words in (call for line in code for call in said(line)):
        command = _PROGRAM.commands.get(words[0])  # type: ignore[attr-defined]
        assert command is not None, words
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"[OPTIONS]"}
        assert not [word for word in words if word.startswith("--") and word not in known], words


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_benchmark_that_is_named_is_there(page: Path) -> None:
    for module in _BENCHMARK.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file(), module


def test_the_page_of_commands_is_what_the_help_says() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "commands.py"))["commands_page"]()
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == page, "run: python docs/commands.py"


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "start.md"], ids=lambda page: page.name)
def test_the_answers_shown_are_the_truth_of_the_sample_s_golden_commands(page: Path) -> None:
    labels = load_label_set(SAMPLE_DIR / "labels.toml")
    records, _ = read_jsonl(SAMPLE_DIR / "test.jsonl", labels)
    truth = {record.command: answer_text(record.response, labels) for record in records}
    lines = page.read_text(encoding="utf-8").splitlines()
    shown = {
        line.strip().removeprefix("> "): after.strip()
        for line, after in pairwise(lines)
        if line.strip().startswith("> ")
    }
    assert shown
    assert shown.keys() <= set(labels.golden)
    assert shown == {command: truth[command] for command in shown}


def test_a_record_shown_is_one_of_the_contract(tmp_path: Path) -> None:
    lines = [line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines()]
    records = [line.strip() for line in lines if line.strip().startswith('{"command"')]
    file = tmp_path / "shown.jsonl"
    file.write_text("\n".join(records), encoding="utf-8")
    found, problems = read_jsonl(file)
    assert len(found) >= 5
    assert [json.loads(records[problem.line - 1])["command"] for problem in problems] == ["V-9 is stuck"]


class _Loaded(HTMLParser):
    """What a page of the site has its reader's browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.classes |= set((values.get("class") or "").split())
        if tag in ("script", "img", "iframe") and values.get("src"):
            self.urls.append(values["src"] or "")
        if tag == "link" and values.get("rel") != "canonical" and values.get("href"):
            self.urls.append(values["href"] or "")


def test_the_site_is_built_without_a_warning_and_fetches_nothing_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) == len(PAGES) + 1  # and the page for a missing one
    for page in pages:
        loaded = _Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert not [url for url in loaded.urls if re.match(r"([a-z]+:)?//", url) and not url.startswith("data:")], page
        assert "mermaid" not in loaded.classes, page  # the theme's script would fetch a renderer
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:|@import", style.read_text(encoding="utf-8")), style


def test_the_architecture_page_shows_every_folder_of_code() -> None:
    tree = (ROOT / "docs" / "architecture.md").read_text().split("```text\n")[2].split("```")[0]
    named = set(re.findall(r"[\w.]+(?=/)", tree))
    code = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    assert {folder for path in code for folder in path.relative_to(ROOT).parts[:-1]} <= named
