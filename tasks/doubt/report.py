"""How well a model knows what it does not know: its confidences against labelled records."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from rich.table import Table

from deployment.answers.doubt import Doubt
from tasks.doubt.scores import Judged, ScoredAnswer
from tasks.evaluation.bootstrap import Interval, percentile_interval
from tasks.evaluation.metrics import wilson_interval
from tasks.reports.page import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOUBT_TITLES = {
    "auroc": "Out of scope, AUROC",
    "out_of_scope_recall": "Out-of-scope recall",
    "false_rejects": "False rejects",
    "ece_answer": "ECE of answers",
    "ece_intent": "ECE of intents",
    "ece_field": "ECE of values",
    "ece_out_of_scope": "ECE of out of scope",
    "right_unasked": "Right where no person is asked",
}
_BINS = 10
_RESAMPLES = 1000
_SEED = 20250
_Pairs = NDArray[np.float64]  # (answers, 2): confidence, and 1 where it is right


class Estimate(BaseModel):
    """A figure with its 95 % interval; None where it is undefined."""

    model_config = ConfigDict(frozen=True)

    value: float | None
    interval: Interval | None = None


class DoubtReport(BaseModel):
    """Confidences of one model on one set of records; shares are in 0..1.

    ECE is the expected calibration error over ten bins of equal mass (Naeini et al. 2015). AUROC is that of the score
    for out of scope: the share of pairs, one command of each kind, that it orders rightly.
    """

    model_config = ConfigDict(frozen=True)

    rows: int
    out_of_scope_rows: int
    auroc: Estimate
    out_of_scope_recall: Estimate  # of the answers, after the threshold
    false_rejects: Estimate  # share of the commands in scope that were answered out of scope
    ece_answer: Estimate
    ece_intent: Estimate
    ece_field: Estimate
    ece_out_of_scope: Estimate
    asked: float | None  # share of the answers for which a person is to be asked
    right_unasked: Estimate  # share of right answers among the others
    ask_below: float
    reliability: list[tuple[float, float]]  # mean confidence of a bin of answers, share of right ones in it
    curve: list[tuple[float, float]]  # coverage, share of right ones among the surest answers

    def figures(self) -> dict[str, float | None]:
        """The values alone, by the names under which runs log them."""
        estimates = {name: value for name, value in self if isinstance(value, Estimate)}
        return {f"doubt.{name}": value.value for name, value in estimates.items()} | {"doubt.asked": self.asked}


def doubt_report(answers: Sequence[ScoredAnswer], doubt: Doubt) -> DoubtReport:
    """The report of ``answers``, which ``doubt`` was not calibrated on, nor the model trained."""
    return pooled_report([(answer, doubt) for answer in answers])


def pooled_report(pairs: Sequence[tuple[ScoredAnswer, Doubt]]) -> DoubtReport:
    """The same where answers are of several models, each with its own doubt."""
    answers = [answer for answer, _ in pairs]
    scores = _array([answer.out_of_scope for answer in answers])
    outside = [answer.rejected for answer in answers if answer.out_of_scope.right]
    inside = [answer.rejected for answer in answers if not answer.out_of_scope.right]
    whole = _array([_whole(answer, doubt) for answer, doubt in pairs])
    below = np.array([doubt.ask_below for _, doubt in pairs])
    unasked = whole[whole[:, 0] >= below]
    return DoubtReport(
        rows=len(answers),
        out_of_scope_rows=len(outside),
        auroc=_estimate(scores, _auroc),
        out_of_scope_recall=_share(outside),
        false_rejects=_share(inside),
        ece_answer=_estimate(whole, ece),
        ece_intent=_estimate(_array([_sure(answer.intent, doubt.intent) for answer, doubt in pairs]), ece),
        ece_field=_estimate(
            _array([_sure(field, doubt.field) for answer, doubt in pairs for field in answer.fields]), ece
        ),
        ece_out_of_scope=_estimate(
            _array([_sure(answer.out_of_scope, doubt.out_of_scope) for answer, doubt in pairs]), ece
        ),
        asked=1 - len(unasked) / len(whole) if len(whole) else None,
        right_unasked=_share([bool(right) for _, right in unasked]),
        ask_below=float(below.mean()) if len(below) else 0.0,
        reliability=[(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in _bins(whole)],
        curve=risk_coverage(whole),
    )


def ece(pairs: _Pairs) -> float | None:
    """The expected calibration error of ``pairs``, confidence and rightness, in bins of equal mass."""
    if not len(pairs):
        return None
    return sum(len(part) * abs(float(part[:, 0].mean() - part[:, 1].mean())) for part in _bins(pairs)) / len(pairs)


def risk_coverage(pairs: _Pairs) -> list[tuple[float, float]]:
    """The share of right answers among the surest, for every share that is taken (El-Yaniv and Wiener 2010)."""
    ordered = pairs[np.argsort(-pairs[:, 0], kind="stable")]
    counts = np.arange(1, len(ordered) + 1)
    right = np.cumsum(ordered[:, 1]) / counts
    return [(float(count) / len(ordered), float(share)) for count, share in zip(counts, right, strict=True)]


def doubt_table(reports: dict[str, DoubtReport]) -> Table:
    """One column for each report."""
    table = Table(title="doubt", title_justify="left")
    table.add_column("")
    for name in reports:
        table.add_column(name, justify="right")
    for field, title in DOUBT_TITLES.items():
        table.add_row(title, *(_shown(getattr(report, field)) for report in reports.values()))
    table.add_row("A person is asked", *(percent(report.asked) for report in reports.values()))
    return table


def doubt_figure(report: DoubtReport) -> "Figure":
    """Left, how often answers of a confidence are right, a dashed line where a person is asked; right, the share of
    right ones among the surest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left = figure.add_subplot(
        1, 2, 1, title="Confidence", xlabel="confidence of an answer", ylabel="share of right ones"
    )
    left.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=0.8)
    left.plot(*_columns(report.reliability), color="#08519c", marker="o")
    left.axvline(report.ask_below, color="#d94801", linewidth=0.8, linestyle="--")
    right = figure.add_subplot(
        1, 2, 2, title="Surest first", xlabel="share of the commands that are answered", ylabel="share of right ones"
    )
    right.plot(*_columns(report.curve), color="#08519c")
    for axes in (left, right):
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    return figure


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _bins(pairs: _Pairs) -> list[_Pairs]:
    """Of equal mass, the least sure first; none is empty."""
    ordered = pairs[np.argsort(pairs[:, 0], kind="stable")]
    return [part for part in np.array_split(ordered, _BINS) if len(part)]


def _whole(answer: ScoredAnswer, doubt: Doubt) -> tuple[float, bool]:
    """The confidence of a whole answer, as :meth:`Doubt.confidence` has it, and whether it is right."""
    if answer.rejected:
        return doubt.out_of_scope(answer.out_of_scope.score), answer.out_of_scope.right
    return doubt.answer(answer.answer.score), answer.answer.right


def _sure(judged: Judged, meaning: Callable[[float], float]) -> tuple[float, bool]:
    return meaning(judged.score), judged.right


def _array(pairs: Sequence[tuple[float, bool]]) -> _Pairs:
    return np.array(pairs, dtype=np.float64).reshape(len(pairs), 2)


def _auroc(pairs: _Pairs) -> float | None:
    """By the ranks of the right ones among all (Mann and Whitney 1947)."""
    right = pairs[:, 1] == 1
    count = int(right.sum())
    if count in (0, len(pairs)):
        return None
    from scipy.stats import rankdata  # which takes a while to import

    ranks = float(rankdata(pairs[:, 0])[right].sum())
    return (ranks - count * (count + 1) / 2) / (count * (len(pairs) - count))


def _share(flags: Sequence[bool]) -> Estimate:
    if not flags:
        return Estimate(value=None)
    return Estimate(value=sum(flags) / len(flags), interval=wilson_interval(sum(flags), len(flags)))


def _estimate(pairs: _Pairs, figure: Callable[[_Pairs], float | None]) -> Estimate:
    """A figure of ``pairs`` with its percentile bootstrap."""
    value = figure(pairs)
    if value is None:
        return Estimate(value=None)
    generator = np.random.default_rng(_SEED)
    drawn = (figure(pairs[generator.integers(0, len(pairs), len(pairs))]) for _ in range(_RESAMPLES))
    samples = np.array([np.nan if sample is None else sample for sample in drawn])
    return Estimate(value=value, interval=percentile_interval(samples))


def _shown(estimate: Estimate) -> str:
    if estimate.value is None or estimate.interval is None:
        return "n/a"
    low, high = (f"{100 * bound:.1f}" for bound in estimate.interval)
    return f"{percent(estimate.value)} ({low} … {high})"
