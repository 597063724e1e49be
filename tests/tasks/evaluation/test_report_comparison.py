import json
import random
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from deployment.runtimes.prediction import Prediction
from registry.errors import UsageError
from registry.records import LabelSet, Record, Response, answer_text
from tasks.evaluation.bootstrap import percentile_interval, resampled_ratios
from tasks.evaluation.comparison import (
    compare_reports,
    comparison_html,
    comparison_table,
    mcnemar_p,
    write_comparison,
)
from tasks.evaluation.metrics import METRIC_TITLES, ratios
from tasks.evaluation.report import EvaluationReport, evaluation_report

ROWS = 120


@pytest.fixture
def many_records(plant_records: list[Record]) -> list[Record]:
    return (plant_records * (ROWS // len(plant_records)))[:ROWS]


def report_with_errors(
    records: list[Record], labels: LabelSet, rate: float, *, seed: int, name: str = "m"
) -> EvaluationReport:
    chooser = random.Random(seed)
    wrong = Response(intent="check_asset", entities={"asset": "X-0"})
    predictions = [
        Prediction(
            text=answer_text(wrong if chooser.random() < rate else record.response, labels),
            tokens=1,
            seconds=0.1,
        )
        for record in records
    ]
    return evaluation_report(
        records, predictions, labels, model=name, sha256=None, dataset="d", dataset_sha256="b" * 64
    )


def terms(report: EvaluationReport, metric: str) -> tuple[np.ndarray, np.ndarray]:
    return ratios([row.expected for row in report.rows], [row.answer for row in report.rows])[metric]


def test_bootstrap_agrees_with_scipy_on_paired_rows(many_records: list[Record], plant_labels: LabelSet):
    stats = pytest.importorskip("scipy.stats")
    a = report_with_errors(many_records, plant_labels, 0.4, seed=1)
    b = report_with_errors(many_records, plant_labels, 0.2, seed=2)
    comparison = compare_reports(a, b)
    for line in comparison.metrics:
        if line.metric in ("oos_precision", "json_validity"):
            continue  # scipy has no resamples without a denominator, and no spread where both are perfect
        columns = [*terms(a, line.metric), *terms(b, line.metric)]
        reference = stats.bootstrap(
            columns,
            lambda na, da, nb, db, axis: nb.sum(axis) / db.sum(axis) - na.sum(axis) / da.sum(axis),
            paired=True,
            vectorized=True,
            method="percentile",
            n_resamples=4000,
            rng=np.random.default_rng(0),
        ).confidence_interval
        assert (line.low, line.high) == pytest.approx((reference.low, reference.high), abs=0.03)


def test_bootstrap_agrees_with_drawing_rows_one_by_one():
    generator = np.random.default_rng(3)
    numerators = generator.integers(0, 3, 40).astype(float)
    denominators = numerators + generator.integers(0, 2, 40)
    found = percentile_interval(resampled_ratios([(numerators, denominators)])[0])
    drawn = []
    for _ in range(4000):
        rows = generator.integers(0, 40, 40)
        drawn.append(numerators[rows].sum() / denominators[rows].sum())
    assert found == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.01)


def test_resamples_without_a_denominator_are_left_out():
    numerators, denominators = np.array([1.0, 0, 0]), np.array([1.0, 0, 0])
    samples = resampled_ratios([(numerators, denominators)])[0]
    assert np.isnan(samples).any()
    assert percentile_interval(samples) == (1.0, 1.0)
    assert percentile_interval(np.array([np.nan])) is None


def test_a_model_against_itself_differs_nowhere(many_records: list[Record], plant_labels: LabelSet):
    report = report_with_errors(many_records, plant_labels, 0.3, seed=1)
    comparison = compare_reports(report, report)
    assert comparison.flips == []
    assert comparison.same_answers == comparison.rows == ROWS
    assert comparison.mcnemar.p == 1.0
    assert {(line.difference, line.low, line.high) for line in comparison.metrics} == {(0.0, 0.0, 0.0)}
    assert not any(line.is_clear for line in comparison.metrics)


def test_pairing_makes_the_interval_narrower_than_two_separate_ones(many_records: list[Record], plant_labels: LabelSet):
    a = report_with_errors(many_records, plant_labels, 0.30, seed=1)
    b = report_with_errors(many_records, plant_labels, 0.35, seed=1)  # errs wherever a errs, and a little more
    [line] = [line for line in compare_reports(a, b).metrics if line.metric == "exact_match"]
    separate = b.intervals["exact_match"]
    assert separate is not None
    assert line.low is not None
    assert line.high is not None
    assert line.high - line.low < 0.7 * (separate[1] - separate[0])


def test_a_clear_gain_is_marked_and_every_flip_listed(many_records: list[Record], plant_labels: LabelSet):
    a = report_with_errors(many_records, plant_labels, 0.5, seed=1, name="old")
    b = report_with_errors(many_records, plant_labels, 0.05, seed=2, name="new")
    comparison = compare_reports(a, b)
    exact = next(line for line in comparison.metrics if line.metric == "exact_match")
    assert exact.is_clear
    assert exact.difference == pytest.approx((exact.b or 0) - (exact.a or 0))
    assert comparison.mcnemar.p < 1e-6
    assert len(comparison.flips) == comparison.mcnemar.only_a + comparison.mcnemar.only_b
    for flip in comparison.flips:
        row_a, row_b = a.rows[flip.number - 1], b.rows[flip.number - 1]
        assert (row_a.ok, row_b.ok) == (flip.better == "a", flip.better == "b")


def test_swapping_the_models_mirrors_the_differences(many_records: list[Record], plant_labels: LabelSet):
    a = report_with_errors(many_records, plant_labels, 0.4, seed=1)
    b = report_with_errors(many_records, plant_labels, 0.1, seed=2)
    for line, mirrored in zip(compare_reports(a, b).metrics, compare_reports(b, a).metrics, strict=True):
        if line.difference is not None and line.low is not None:
            assert mirrored.difference == pytest.approx(-line.difference)
            assert (mirrored.high, mirrored.low) == pytest.approx((-line.low, -(line.high or 0)))


def test_a_metric_that_one_model_leaves_undefined_has_no_difference(plant_labels: LabelSet):
    records = [Record(command="hi", response=Response(intent="out_of_scope", entities={}))]
    a = report_with_errors(records, plant_labels, 0.0, seed=1)
    b = report_with_errors(records, plant_labels, 1.0, seed=1)
    line = next(line for line in compare_reports(a, b).metrics if line.metric == "oos_precision")
    assert (line.a, line.b, line.difference, line.low) == (1.0, None, None, None)


def test_mcnemar_equals_the_binomial_test():
    stats = pytest.importorskip("scipy.stats")
    for only_a, only_b in [(0, 1), (3, 9), (5, 5), (0, 20), (40, 61)]:
        reference = stats.binomtest(only_a, only_a + only_b).pvalue
        assert mcnemar_p(only_a, only_b) == pytest.approx(reference, rel=1e-9)
        assert mcnemar_p(only_a, only_b) == mcnemar_p(only_b, only_a)
    assert mcnemar_p(0, 0) == 1.0


def test_reports_of_other_rows_are_not_compared(many_records: list[Record], plant_labels: LabelSet):
    a = report_with_errors(many_records, plant_labels, 0.1, seed=1)
    b = report_with_errors(many_records[1:], plant_labels, 0.1, seed=1)
    with pytest.raises(UsageError, match="not of the same rows"):
        compare_reports(a, b)
    empty = report_with_errors([], plant_labels, 0.1, seed=1)
    with pytest.raises(UsageError, match="nothing to compare"):
        compare_reports(empty, empty)


def test_page_table_and_json_tell_the_same(many_records: list[Record], plant_labels: LabelSet, tmp_path: Path):
    a = report_with_errors(many_records, plant_labels, 0.4, seed=1, name="old.gguf")
    b = report_with_errors(many_records, plant_labels, 0.1, seed=2, name="new.gguf")
    comparison = compare_reports(a, b)
    write_comparison(comparison, json_path=tmp_path / "c.json", html_path=tmp_path / "c.html")
    document = json.loads((tmp_path / "c.json").read_text())
    assert document["format"] == "gemmill-comparison/1"
    assert [line["metric"] for line in document["metrics"]] == list(METRIC_TITLES)
    html = (tmp_path / "c.html").read_text()
    assert html == comparison_html(comparison)
    assert "old.gguf" in html
    assert html.count('class="command"') == len(comparison.flips)
    console = Console(width=100, record=True)
    console.print(comparison_table(comparison))
    text = console.export_text()
    assert "new.gguf" in text
    assert f"{100 * document['metrics'][5]['a']:.1f} %" in text
