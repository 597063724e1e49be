"""Measurements and thresholds in, a verdict out. It fails closed: what was not measured has not passed.

Gates, in this order, with names that reports, tags and summaries rely on:

- ``json_validity``, ``intent_accuracy``, ``exact_match``, ``entity_f1``, ``oos_recall``, ``oos_precision``:
  the metric is at its floor or above.
- The same names with ``_vs_champion``: the metric is at most ``max_drop`` below the champion's.
- All of these with ``grounded_`` before them: the same of grounded answers, where the thresholds ask it.
- ``norm_outliers_vs_base``: no norm gain has outgrown the base's, and every tensor is finite.
- ``norm_outliers_vs_champion``: the same against the champion.
- ``prompt_parity``, ``gguf_verification`` and any other check that is handed in: it was made, and holds.

Those against the champion are there only where there is a champion, the one on its norms only where the two models
share a norm: a champion of another architecture has none to compare.
"""

import math
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from registry.errors import GateBlocked
from tasks.forensics.comparison import OutlierComparison
from tasks.gates.thresholds import MAX_DROP, Floors, Thresholds

REQUIRED_CHECKS = ("prompt_parity", "gguf_verification")
_ROUNDING = 1e-9  # 0.98 - 0.01 must not miss 0.97 by a bit of the last place
_NAMED_FAILURES = 3
GROUNDED = "grounded_"  # before the names of gates on grounded answers


class Gate(BaseModel):
    """One gate with what was measured, what was asked, and what it was compared with.

    A metric passes at ``threshold`` or above, a ratio of norm gains at it or below, a check where it is true.
    ``baseline`` is the champion's metric, or the other model's gain in the channel that grew most.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    passed: bool
    value: bool | float | None
    threshold: bool | float | None
    baseline: float | None = None
    compared_with: str
    reason: str


class Verdict(BaseModel):
    """All gates of a candidate; passed where every one of them is."""

    model_config = ConfigDict(frozen=True)

    passed: bool
    gates: tuple[Gate, ...]

    @property
    def failed(self) -> tuple[Gate, ...]:
        return tuple(gate for gate in self.gates if not gate.passed)

    def require(self) -> "Verdict":
        """Return the verdict if it passed. Raises GateBlocked naming the gates that failed otherwise."""
        if self.passed:
            return self
        named = "; ".join(f"{gate.name}: {gate.reason}" for gate in self.failed[:_NAMED_FAILURES])
        more = len(self.failed) - _NAMED_FAILURES
        rest = f"; and {more} more, see the gate report" if more > 0 else ""
        raise GateBlocked(f"{len(self.failed)} of {len(self.gates)} gates block the candidate. {named}{rest}.")


def judge(
    *,
    candidate: Mapping[str, float | None],
    champion: Mapping[str, float | None] | None,
    champion_name: str | None,
    outliers_vs_base: OutlierComparison | None,
    outliers_vs_champion: OutlierComparison | None,
    checks: Mapping[str, bool],
    thresholds: Thresholds,
    candidate_grounded: Mapping[str, float | None] | None = None,
    champion_grounded: Mapping[str, float | None] | None = None,
) -> Verdict:
    """Hold a candidate's measurements against the thresholds and, where there is one, the champion.

    ``candidate`` and ``champion`` map metric names to values on the same test rows, and may hold more of
    them.
    """
    title = champion_name or "champion"
    gates = _answer_gates("", candidate, champion, title, thresholds)
    if thresholds.grounded:
        theirs = None if champion is None else champion_grounded or {}
        gates += _answer_gates(GROUNDED, candidate_grounded or {}, theirs, title, thresholds.grounded)
    gates.append(_outlier_gate("base", "base", outliers_vs_base, thresholds.norm_outlier_ratio_max))
    if champion is not None and not (outliers_vs_champion and outliers_vs_champion.disjoint):
        gates.append(_outlier_gate("champion", title, outliers_vs_champion, thresholds.norm_outlier_ratio_max))
    gates += [_check_gate(name, checks.get(name)) for name in dict.fromkeys((*REQUIRED_CHECKS, *checks))]
    return Verdict(passed=all(gate.passed for gate in gates), gates=tuple(gates))


def _answer_gates(
    prefix: str,
    candidate: Mapping[str, float | None],
    champion: Mapping[str, float | None] | None,
    title: str,
    asked: Floors,
) -> list[Gate]:
    gates = [_floor_gate(f"{prefix}{name}", candidate.get(name), floor) for name, floor in asked.floors().items()]
    if champion is not None:
        gates += [
            _drop_gate(f"{prefix}{name}_vs_champion", candidate.get(name), champion.get(name), title, asked.max_drop)
            for name in asked.floors()
        ]
    return gates


def judge_smaller(
    *, candidate: Mapping[str, float | None], largest: Mapping[str, float | None], thresholds: Thresholds | None
) -> Verdict:
    """Hold the metrics of a file against the floors, and against those of the largest file of the same model.

    Without ``thresholds`` there are no floors: what was measured of the largest file may drop by ``MAX_DROP``.
    """
    gates: list[Gate] = []
    if thresholds:
        gates = [_floor_gate(name, candidate.get(name), floor) for name, floor in thresholds.floors().items()]
    max_drop = thresholds.max_drop if thresholds else MAX_DROP
    gates += [
        _drop_gate(f"{name}_vs_largest", candidate.get(name), largest.get(name), "largest", max_drop)
        for name in Thresholds.metrics()
        if thresholds or largest.get(name) is not None
    ]
    return Verdict(passed=all(gate.passed for gate in gates), gates=tuple(gates))


def _share(value: float | None) -> float | None:
    """``value`` where it is a number between 0 and 1, else None: a metric out of range was not measured."""
    if isinstance(value, (int, float)) and math.isfinite(value) and 0 <= value <= 1:
        return float(value)
    return None


def _floor_gate(name: str, measured: float | None, floor: float) -> Gate:
    value = _share(measured)
    passed = value is not None and value >= floor - _ROUNDING
    if value is None:
        reason = f"not measured ({measured}), {floor:.4g} is asked"
    else:
        reason = f"{value:.4g} is {'at or above' if passed else 'below'} the floor of {floor:.4g}"
    return Gate(name=name, passed=passed, value=value, threshold=floor, compared_with="floor", reason=reason)


def _drop_gate(name: str, measured: float | None, theirs: float | None, title: str, max_drop: float) -> Gate:
    value, baseline = _share(measured), _share(theirs)
    limit = None if baseline is None else max(0.0, baseline - max_drop)
    passed = value is not None and limit is not None and value >= limit - _ROUNDING
    if value is None:
        reason = f"not measured ({measured}), so it cannot be held against {title}"
    elif baseline is None:
        reason = f"{title} has no such measurement ({theirs}) to hold {value:.4g} against"
    else:
        kept = "within" if passed else "more than"
        reason = f"{value:.4g} against {baseline:.4g} of {title}, {kept} the allowed drop of {max_drop:.4g}"
    return Gate(
        name=name,
        passed=passed,
        value=value,
        threshold=limit,
        baseline=baseline,
        compared_with=title,
        reason=reason,
    )


def _outlier_gate(against: str, title: str, comparison: OutlierComparison | None, ratio_max: float) -> Gate:
    worst = None if comparison is None else comparison.worst
    if comparison is None or worst is None:
        reason = f"no norms were compared with {title}"
    else:
        reason = f"{comparison.finding()}, at most {ratio_max:g} is allowed"
    return Gate(
        name=f"norm_outliers_vs_{against}",
        passed=comparison is not None and comparison.within(ratio_max),
        value=worst.ratio if worst else None,
        threshold=ratio_max,
        baseline=worst.baseline_gain if worst else None,
        compared_with=title,
        reason=reason,
    )


def _check_gate(name: str, made: bool | None) -> Gate:
    reason = {True: "yes", False: "no", None: "not checked"}[made]
    return Gate(name=name, passed=made is True, value=made, threshold=True, compared_with="required", reason=reason)
