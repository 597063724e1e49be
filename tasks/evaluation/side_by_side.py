"""One model on the same rows, its answers held in two ways, as evaluation and retraining show them together."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from registry.files import write_text
from registry.records import same_answer
from tasks.doubt.report import DOUBT_TITLES, doubt_figure
from tasks.evaluation.comparison import Comparison, compare_reports
from tasks.evaluation.metrics import METRIC_TITLES
from tasks.evaluation.pages import render
from tasks.evaluation.report import EvaluationReport


class SideBySide(BaseModel):
    """The reports of both ways, and their paired differences."""

    model_config = ConfigDict(frozen=True)

    format: Literal["gemmill-evaluations/1"] = "gemmill-evaluations/1"
    reports: tuple[EvaluationReport, EvaluationReport]
    comparison: Comparison


def side_by_side(a: EvaluationReport, b: EvaluationReport) -> SideBySide:
    """Both reports together. Raises UsageError where they are not of the same rows."""
    return SideBySide(reports=(a, b), comparison=compare_reports(a, b))


def write_side_by_side(both: SideBySide, *, json_path: Path | None = None, html_path: Path | None = None) -> None:
    """Write both reports in the forms that a path is given for."""
    if json_path is not None:
        write_text(json_path, both.model_dump_json(indent=2) + "\n")
    if html_path is not None:
        write_text(html_path, side_by_side_html(both))


def side_by_side_html(both: SideBySide) -> str:
    """A page that needs no network: metrics, doubt, confusion, the rows that were answered otherwise, the others."""
    from tasks.reports.figures import embedded  # matplotlib takes a while to import

    pairs = list(zip(*(report.rows for report in both.reports), strict=True))
    alike = [a for a, b in pairs if same_answer(a.answer, b.answer)]
    return render(
        "side_by_side.html.j2",
        reports=both.reports,
        differences={line.metric: line for line in both.comparison.metrics},
        titles=METRIC_TITLES,
        doubt_titles=DOUBT_TITLES,
        doubts=[(report, embedded(doubt_figure(report.doubt))) for report in both.reports if report.doubt],
        different=sorted(
            ((a, b) for a, b in pairs if not same_answer(a.answer, b.answer)), key=lambda pair: (pair[0].ok, pair[1].ok)
        ),
        wrong=[row for row in alike if not row.ok],
        right=[row for row in alike if row.ok],
    )
