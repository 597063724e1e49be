import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from deployment.runtimes.prediction import Prediction
from registry.errors import UsageError
from registry.records import LabelSet, Record, Response, answer_text
from tasks.evaluation.metrics import METRIC_TITLES, score, wilson_interval
from tasks.evaluation.report import (
    EvaluationReport,
    evaluation_report,
    load_report,
    metrics_table,
    report_html,
    write_report,
)


def said(*texts: str) -> list[Prediction]:
    return [Prediction(text=text, tokens=5, seconds=0.1) for text in texts]


def make_report(records: list[Record], labels: LabelSet, *texts: str) -> EvaluationReport:
    return evaluation_report(
        records, said(*texts), labels, model="m.gguf", sha256="a" * 64, dataset="d", dataset_sha256="b" * 64
    )


@pytest.fixture
def report(plant_records: list[Record], plant_labels: LabelSet) -> EvaluationReport:
    right = [answer_text(record.response, plant_labels) for record in plant_records]
    return make_report(
        plant_records,
        plant_labels,
        right[0].replace("SG-402", "<b>SG-999</b>"),
        right[1],
        "Sunny, I think.",
        '{"intent": "brew", "entities": {}}',
    )


def test_a_report_carries_every_row_and_the_metrics_of_score(
    report: EvaluationReport, plant_records: list[Record], plant_labels: LabelSet
):
    assert [row.command for row in report.rows] == [record.command for record in plant_records]
    assert [row.ok for row in report.rows] == [False, True, False, False]
    assert report.rows[2].got is None
    assert report.rows[3].got == Response(intent="brew", entities={})
    predictions = said(*(row.answer for row in report.rows))
    assert report.metrics == score(plant_records, predictions, plant_labels)


def test_intervals_hold_their_metrics(report: EvaluationReport):
    assert report.intervals["exact_match"] == wilson_interval(1, 4)
    assert report.intervals["oos_precision"] is None
    for name in METRIC_TITLES:
        value, interval = getattr(report.metrics, name), report.intervals[name]
        assert (value is None) == (interval is None)
        if interval is not None:
            assert 0 <= interval[0] <= value <= interval[1] <= 1


def test_a_report_is_read_back_as_it_was_written(report: EvaluationReport, tmp_path: Path):
    path = tmp_path / "reports" / "e.json"
    write_report(report, json_path=path)
    assert load_report(path) == report
    document = json.loads(path.read_text())
    assert document["format"] == "gemmill-evaluation/1"
    assert set(document) == {
        "format", "model", "sha256", "decoding", "dataset", "dataset_sha256", "metrics", "intervals", "confusion",
        "doubt", "rows",
    }  # fmt: skip
    assert set(document["rows"][0]) == {
        "number", "command", "expected", "answer", "got", "ok", "failure", "confidence",
    }  # fmt: skip


def test_what_is_no_report_is_refused(tmp_path: Path):
    path = tmp_path / "e.json"
    with pytest.raises(UsageError, match="cannot be read"):
        load_report(path)
    path.write_text('{"format": "gemmill-evaluation/2"}')
    with pytest.raises(UsageError, match="not an evaluation report"):
        load_report(path)


class Page(HTMLParser):
    """Collects what a page would fetch and the text of its table cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_fetches_nothing_and_escapes_what_people_and_models_wrote(report: EvaluationReport):
    html = report_html(report)
    page = Page(html)
    assert page.fetched == []
    assert not re.search(r"https?://|@import|url\(", html)
    assert "script" not in page.tags
    assert "&lt;b&gt;SG-999&lt;/b&gt;" in html
    assert "<b>SG-999</b>" not in html


def test_the_page_shows_wrong_rows_before_right_ones(report: EvaluationReport, plant_records: list[Record]):
    html = report_html(report)
    places = [html.index(record.command) for record in plant_records]
    assert max(places[0], places[2], places[3]) < places[1]
    assert "Sunny, I think." in html


def test_the_same_report_gives_the_same_page(report: EvaluationReport):
    assert report_html(report) == report_html(report)


def test_a_perfect_run_and_an_empty_one_have_a_page(plant_records: list[Record], plant_labels: LabelSet):
    right = [answer_text(record.response, plant_labels) for record in plant_records]
    assert "Every answer matches" in report_html(make_report(plant_records, plant_labels, *right))
    assert "n/a" in report_html(make_report([], plant_labels))


def test_the_table_has_a_column_for_each_model_and_says_what_is_undefined(report: EvaluationReport):
    console = Console(width=100, record=True)
    console.print(metrics_table({"teacher": report.metrics, "gguf": report.metrics}))
    text = console.export_text()
    assert "teacher" in text
    assert "gguf" in text
    assert re.search(r"Exact match\W+25\.0 %\W+25\.0 %", text)
    assert re.search(r"Out-of-scope precision\W+n/a", text)
    assert re.search(r"Tokens per second\W+50", text)


def test_a_command_without_an_answer_is_wrong_and_told_why(
    plant_records: list[Record], plant_labels: LabelSet, caplog: pytest.LogCaptureFixture
):
    told = "The command is 9 tokens too long"
    predictions = [*said("{}", "{}", "{}"), Prediction(text="", tokens=0, seconds=0.0, failure=told)]
    report = evaluation_report(
        plant_records, predictions, plant_labels, model="m", sha256=None, dataset="d", dataset_sha256="b" * 64
    )
    assert [row.failure for row in report.rows] == ["", "", "", told]
    assert not report.rows[3].ok
    assert told in report_html(report)
    assert f"1 of 4 commands have no answer. The first: {told}" in caplog.text
