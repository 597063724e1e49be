"""The report of one evaluation: a JSON document that other commands read back, and a page for people."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.markup import escape
from rich.table import Table

from deployment.answers.doubt import Doubt
from deployment.runtimes.prediction import Prediction
from registry.errors import UsageError, validation_message
from registry.files import write_text
from registry.records import LabelSet, Record, Response, parse_answer
from tasks.doubt.report import DOUBT_TITLES, DoubtReport, doubt_figure, doubt_report
from tasks.doubt.scores import scored_answers
from tasks.evaluation.bootstrap import Interval, percentile_interval, resampled_ratios
from tasks.evaluation.metrics import (
    METRIC_TITLES,
    Confusion,
    Metrics,
    Ratios,
    confusion,
    ratios,
    score,
    wilson_interval,
)
from tasks.evaluation.pages import render
from tasks.reports.page import percent

logger = logging.getLogger(__name__)


class EvaluatedRow(BaseModel):
    """One record and what the model made of it."""

    model_config = ConfigDict(frozen=True)

    number: int  # position in the data, from 1
    command: str
    expected: Response
    answer: str  # the model's whole text
    got: Response | None  # the answer as the contract reads it, None where it is invalid
    ok: bool  # an exact match
    failure: str = ""  # why there is no answer
    confidence: float | None = None  # that the answer is right, where the model says


class EvaluationReport(BaseModel):
    """Everything that is known about one model on one set of records."""

    model_config = ConfigDict(frozen=True)

    format: Literal["gemmill-evaluation/1"] = "gemmill-evaluation/1"
    model: str  # as it was named on the command line
    sha256: str | None  # of the model's file or folder, None for a server
    decoding: str = "free"  # how far the answers were held
    dataset: str
    dataset_sha256: str
    metrics: Metrics
    intervals: dict[str, Interval | None]  # 95 %: Wilson for shares of rows, bootstrap over rows for entities
    confusion: Confusion
    doubt: DoubtReport | None = None  # where the model's answers say how sure they are
    rows: list[EvaluatedRow]

    @property
    def title(self) -> str:
        """The model, and how its answers were held where they were not free."""
        return self.model if self.decoding == "free" else f"{self.model}, {self.decoding}"


def evaluation_report(
    records: Sequence[Record],
    predictions: Sequence[Prediction],
    labels: LabelSet,
    *,
    model: str,
    sha256: str | None,
    dataset: str,
    dataset_sha256: str,
    decoding: str = "free",
    doubt: Doubt | None = None,
) -> EvaluationReport:
    """Judge every prediction; a command that was not answered is answered wrongly, and told.

    ``doubt`` is what the scores of the model's answers mean, where they tell them.

    Raises UsageError where a record does not fit the label set.
    """
    if failures := [prediction.failure for prediction in predictions if prediction.failure]:
        logger.warning("%d of %d commands have no answer. The first: %s", len(failures), len(records), failures[0])
    metrics = score(records, predictions, labels)
    answers = [prediction.text for prediction in predictions]
    sums = ratios([record.response for record in records], answers)
    right = sums["exact_match"][0].astype(bool).tolist()
    return EvaluationReport(
        model=model,
        sha256=sha256,
        decoding=decoding,
        dataset=dataset,
        dataset_sha256=dataset_sha256,
        metrics=metrics,
        intervals=_intervals(sums),
        confusion=confusion(records, predictions, labels),
        doubt=doubt_report(scored_answers(records, predictions), doubt) if doubt else None,
        rows=[
            EvaluatedRow(
                number=number,
                command=record.command,
                expected=record.response,
                answer=answer,
                got=parse_answer(answer),
                ok=ok,
                failure=prediction.failure,
                confidence=_confidence(doubt, prediction),
            )
            for number, (record, prediction, answer, ok) in enumerate(
                zip(records, predictions, answers, right, strict=True), start=1
            )
        ],
    )


def _confidence(doubt: Doubt | None, prediction: Prediction) -> float | None:
    response = parse_answer(prediction.text) if doubt else None
    sure = doubt.confidence(prediction.logprobs, response.intent) if doubt and response else None
    return sure and sure.answer


def load_report(path: Path) -> EvaluationReport:
    """Read a report's JSON. Raises UsageError where it is none."""
    try:
        return EvaluationReport.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        raise UsageError(f"{path} is not an evaluation report: {validation_message(error)}.") from error


def write_report(report: EvaluationReport, *, json_path: Path | None = None, html_path: Path | None = None) -> None:
    """Write the report in the forms that a path is given for."""
    if json_path is not None:
        write_text(json_path, report.model_dump_json(indent=2) + "\n")
    if html_path is not None:
        write_text(html_path, report_html(report))


def report_html(report: EvaluationReport) -> str:
    """A page that needs no network: metrics, doubt, confusion matrix, every wrong row, then the others."""
    from tasks.reports.figures import embedded  # matplotlib takes a while to import

    rows = sorted(report.rows, key=lambda row: row.ok)
    wrong = [row for row in rows if not row.ok]
    return render(
        "report.html.j2",
        report=report,
        titles=METRIC_TITLES,
        doubt_titles=DOUBT_TITLES,
        doubt_picture=embedded(doubt_figure(report.doubt)) if report.doubt else "",
        wrong=wrong,
        right=rows[len(wrong) :],
    )


def metrics_table(metrics: Mapping[str, Metrics]) -> Table:
    """One column for each model, one line for each metric."""
    table = Table(title=f"{next(iter(metrics.values())).rows} rows" if metrics else None)
    table.add_column("metric")
    for name in metrics:
        table.add_column(escape(name), justify="right")
    for name, title in METRIC_TITLES.items():
        table.add_row(title, *(percent(getattr(figures, name)) for figures in metrics.values()))
    speeds = [figures.tokens_per_second for figures in metrics.values()]
    table.add_row("Tokens per second", *("n/a" if speed is None else f"{speed:,.0f}" for speed in speeds))
    latencies = ("latency_p50", "latency_p95", "latency_p99", "first_token_p50")
    told = [[getattr(figures, name) for name in latencies] for figures in metrics.values()]
    if any(value is not None for values in told for value in values):
        table.add_row("Latency p50, p95, p99, ms", *(_milliseconds(values[:3]) for values in told))
        table.add_row("First token p50, ms", *(_milliseconds(values[3:]) for values in told))
    return table


def _milliseconds(seconds: Sequence[float | None]) -> str:
    return ", ".join("n/a" if value is None else f"{1000 * value:,.0f}" for value in seconds)


def _intervals(sums: Ratios) -> dict[str, Interval | None]:
    intervals = {
        name: wilson_interval(numerators.sum(), denominators.sum()) for name, (numerators, denominators) in sums.items()
    }
    # Entities of one row are right or wrong together, so rows are what is drawn again.
    clustered = [name for name in sums if name.startswith("entity_")]
    if len(sums["entity_f1"][0]):
        samples = resampled_ratios([sums[name] for name in clustered])
        intervals |= {name: percentile_interval(row) for name, row in zip(clustered, samples, strict=True)}
    return intervals
