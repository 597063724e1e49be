"""Two models on the same rows: paired differences, how sure they are, and which rows changed sides."""

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict
from rich.markup import escape
from rich.table import Table

from registry.errors import UsageError
from registry.files import write_text
from registry.records import Response, parse_answer, same_answer
from tasks.evaluation.bootstrap import Float, percentile_interval, resampled_ratios
from tasks.evaluation.metrics import METRIC_TITLES, ratio_value, ratios
from tasks.evaluation.pages import render
from tasks.evaluation.report import EvaluationReport
from tasks.reports.page import percent, points


class MetricDifference(BaseModel):
    """A metric of both models and ``b - a`` with its 95 % interval by a paired bootstrap over rows."""

    model_config = ConfigDict(frozen=True)

    metric: str
    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None

    @property
    def is_clear(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


class McNemar(BaseModel):
    """McNemar's exact test of exact match: rows that one model has right and the other wrong (1947)."""

    model_config = ConfigDict(frozen=True)

    only_a: int
    only_b: int
    p: float


class Flip(BaseModel):
    """A row that exactly one of the models has right."""

    model_config = ConfigDict(frozen=True)

    number: int
    command: str
    expected: Response
    a: str
    b: str
    better: Literal["a", "b"]


class Comparison(BaseModel):
    """What separates two models on one set of records."""

    model_config = ConfigDict(frozen=True)

    format: Literal["gemmill-comparison/1"] = "gemmill-comparison/1"
    a: str
    b: str
    dataset: str
    dataset_sha256: str
    rows: int
    same_answers: int  # rows with the same response from both, or the same text where it is none
    metrics: list[MetricDifference]
    mcnemar: McNemar
    flips: list[Flip]


def compare_reports(a: EvaluationReport, b: EvaluationReport) -> Comparison:
    """Compare two reports row by row. Raises UsageError where they are not of the same rows."""
    if [(row.command, row.expected) for row in a.rows] != [(row.command, row.expected) for row in b.rows]:
        raise UsageError(
            f"The reports of {a.title} and {b.title} are not of the same rows ({a.dataset} and {b.dataset}); "
            "evaluate both on one file."
        )
    pairs = list(zip(a.rows, b.rows, strict=True))
    only_a = sum(row_a.ok and not row_b.ok for row_a, row_b in pairs)
    only_b = sum(row_b.ok and not row_a.ok for row_a, row_b in pairs)
    return Comparison(
        a=a.title,
        b=b.title,
        dataset=a.dataset,
        dataset_sha256=a.dataset_sha256,
        rows=len(pairs),
        same_answers=sum(same_answer(row_a.answer, row_b.answer) for row_a, row_b in pairs),
        metrics=_differences(a, b),
        mcnemar=McNemar(only_a=only_a, only_b=only_b, p=mcnemar_p(only_a, only_b)),
        flips=[
            Flip(
                number=row_a.number,
                command=row_a.command,
                expected=row_a.expected,
                a=row_a.answer,
                b=row_b.answer,
                better="a" if row_a.ok else "b",
            )
            for row_a, row_b in pairs
            if row_a.ok != row_b.ok
        ],
    )


def mcnemar_p(only_a: int, only_b: int) -> float:
    """The exact two-sided p-value: each discordant row is as likely to fall to either side."""
    discordant = only_a + only_b
    tail = sum(math.comb(discordant, count) for count in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**discordant)


def comparison_table(comparison: Comparison) -> Table:
    """For the terminal: every metric of both, the difference and its interval."""
    test = comparison.mcnemar
    table = Table(
        title=escape(f"A: {comparison.a}\nB: {comparison.b}"),
        caption=f"{comparison.rows} rows, {comparison.same_answers} answered alike; exact match: "
        f"{test.only_a} only A, {test.only_b} only B, McNemar's p {test.p:.3g}",
    )
    table.add_column("metric")
    for title in ("A", "B", "B − A", "95 % interval"):
        table.add_column(title, justify="right")
    for line in comparison.metrics:
        interval = "" if line.low is None else f"{points(line.low)} … {points(line.high)}"
        style = "bold" if line.is_clear else None
        table.add_row(
            METRIC_TITLES[line.metric],
            percent(line.a),
            percent(line.b),
            points(line.difference),
            interval,
            style=style,
        )
    return table


def comparison_html(comparison: Comparison) -> str:
    """A page that needs no network: the differences with their intervals, then every row that flipped."""
    ends = [abs(end) for line in comparison.metrics for end in (line.low, line.high) if end is not None]
    reach = max([0.01, *ends])  # half the width of the axis; a point where nothing differs
    return render(
        "comparison.html.j2",
        comparison=comparison,
        titles=METRIC_TITLES,
        reach=reach,
        position=_position,
        parsed=parse_answer,
    )


def _position(difference: float, reach: float) -> float:
    """Where a difference lies on an axis from ``-reach`` to ``reach``, in percent of its width."""
    return 50 + 50 * difference / reach


def write_comparison(comparison: Comparison, *, json_path: Path | None = None, html_path: Path | None = None) -> None:
    """Write the comparison in the forms that a path is given for."""
    if json_path is not None:
        write_text(json_path, comparison.model_dump_json(indent=2) + "\n")
    if html_path is not None:
        write_text(html_path, comparison_html(comparison))


def _differences(a: EvaluationReport, b: EvaluationReport) -> list[MetricDifference]:
    expected = [row.expected for row in a.rows]
    sums_a = ratios(expected, [row.answer for row in a.rows])
    sums_b = ratios(expected, [row.answer for row in b.rows])
    if not expected:
        raise UsageError(f"The reports of {a.title} and {b.title} have no rows; there is nothing to compare.")
    samples = resampled_ratios([*sums_b.values()]) - resampled_ratios([*sums_a.values()])
    return [
        _difference(name, ratio_value(*sums_a[name]), ratio_value(*sums_b[name]), differences)
        for name, differences in zip(METRIC_TITLES, samples, strict=True)
    ]


def _difference(name: str, a: float | None, b: float | None, samples: Float) -> MetricDifference:
    if a is None or b is None:
        return MetricDifference(metric=name, a=a, b=b, difference=None, low=None, high=None)
    low, high = percentile_interval(samples) or (None, None)
    return MetricDifference(metric=name, a=a, b=b, difference=b - a, low=low, high=high)
