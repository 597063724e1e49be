"""The page and the document of one model whose answers were held in two ways."""

import json
import re
from pathlib import Path

import pytest
from browser import Browser

from deployment.runtimes.prediction import Prediction
from registry.errors import UsageError
from registry.records import LabelSet, Record, answer_text
from tasks.evaluation.comparison import compare_reports
from tasks.evaluation.metrics import METRIC_TITLES
from tasks.evaluation.report import EvaluationReport, evaluation_report
from tasks.evaluation.side_by_side import SideBySide, side_by_side, side_by_side_html, write_side_by_side
from tasks.reports.page import percent, points


def report_of(records: list[Record], labels: LabelSet, answers: list[str], decoding: str) -> EvaluationReport:
    return evaluation_report(
        records,
        [Prediction(text=text, tokens=5, seconds=0.1) for text in answers],
        labels,
        model="m.gguf",
        sha256="a" * 64,
        dataset="d",
        dataset_sha256="b" * 64,
        decoding=decoding,
    )


@pytest.fixture
def both(plant_records: list[Record], plant_labels: LabelSet) -> SideBySide:
    """Four rows: one is wrong when free and right when grounded, one is right in both ways, two are wrong alike."""
    right = [answer_text(record.response, plant_labels) for record in plant_records]
    grounded = [right[0], right[1], "Sunny, I think.", right[3].replace("Öl", "Prüfe")]
    free = [right[0].replace("SG-402", "<b>SG-999</b>"), *grounded[1:]]
    return side_by_side(
        report_of(plant_records, plant_labels, free, "free"),
        report_of(plant_records, plant_labels, grounded, "grounded"),
    )


def test_the_page_has_every_metric_of_both_ways_and_their_difference(both: SideBySide):
    html = side_by_side_html(both)
    cards = html[html.index('class="cards"') : html.index("<h2>")].split('<div class="card">')[1:]
    assert len(cards) == len(METRIC_TITLES)
    for card, (name, title), line in zip(cards, METRIC_TITLES.items(), both.comparison.metrics, strict=True):
        assert f"<b>{title}</b>" in card
        told = re.findall(r"<em>(\w+)</em>\s*<strong>([^<]*)</strong>", card)
        assert told == [(report.decoding, percent(getattr(report.metrics, name))) for report in both.reports]
        assert (f"{points(line.difference)} points" in card) == (line.low is not None)


def test_only_rows_that_were_answered_otherwise_show_both_answers(both: SideBySide, plant_records: list[Record]):
    html = side_by_side_html(both)
    places = [html.index(f">{part}") for part in ("Rows answered otherwise", "Rows wrong in both ways", "1 rows right")]
    sections = [html[start:end] for start, end in zip(places, [*places[1:], None], strict=True)]
    shown = [[record.command in section for record in plant_records] for section in sections]
    assert shown == [[True, False, False, False], [False, False, True, True], [False, True, False, False]]
    assert "&lt;b&gt;SG-999&lt;/b&gt;" in sections[0] and '<span class="right">right</span>' in sections[0]
    assert "Sunny, I think." in sections[1]
    assert not re.search(r"https?://|@import|<script|<b>SG-999", html)


def test_both_reports_are_read_back_as_they_were_written(both: SideBySide, tmp_path: Path):
    path = tmp_path / "both.json"
    write_side_by_side(both, json_path=path)
    document = json.loads(path.read_text())
    assert list(document) == ["format", "reports", "comparison"]
    assert SideBySide.model_validate(document) == both
    assert both.comparison == compare_reports(*both.reports)
    assert (both.comparison.a, both.comparison.b) == ("m.gguf", "m.gguf, grounded")


def test_reports_of_other_rows_do_not_stand_side_by_side(
    both: SideBySide, plant_records: list[Record], plant_labels: LabelSet
):
    fewer = report_of(plant_records[:1], plant_labels, ["?"], "grounded")
    with pytest.raises(UsageError, match="not of the same rows"):
        side_by_side(both.reports[0], fewer)


def test_the_page_fits_a_telephone(both: SideBySide, tmp_path: Path):
    if not Browser.is_installed():
        pytest.skip("no chromium with its chromedriver here")
    write_side_by_side(both, html_path=tmp_path / "both.html")
    with Browser() as browser:
        for width in (1280, 400):
            browser.resize(width)
            browser.open((tmp_path / "both.html").as_uri())
            assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.complaints() == []
