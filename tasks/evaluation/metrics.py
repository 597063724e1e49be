"""How well answers match labelled records.

Every metric is a ratio of two sums over rows, so one table of numerators and denominators gives the value
and, with resampled rows, its interval. A metric whose denominator is 0 is undefined: None, never 0 or 1.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from deployment.runtimes.prediction import Prediction
from registry.errors import UsageError
from registry.records import OUT_OF_SCOPE, LabelSet, Record, Response, parse_answer
from tasks.evaluation.bootstrap import Float

Ratios = Mapping[str, tuple[Float, Float]]  # metric -> numerators (rows,), denominators (rows,)

METRIC_TITLES = {
    "json_validity": "JSON validity",
    "intent_accuracy": "Intent accuracy",
    "entity_precision": "Entity precision",
    "entity_recall": "Entity recall",
    "entity_f1": "Entity F1",
    "exact_match": "Exact match",
    "oos_recall": "Out-of-scope recall",
    "oos_precision": "Out-of-scope precision",
}
_Z_95 = 1.959963984540054  # 97.5 % quantile of the normal distribution
UNKNOWN_INTENT = "(not in the label set)"
NO_ANSWER = "(no valid JSON)"


class Metrics(BaseModel):
    """The figures of one model on one set of records; every share is in 0..1, None where it is undefined.

    An answer is valid only if the whole text is JSON of the record contract's form. An answer with an intent
    outside the label set is valid and wrong; an invalid answer is wrong and has no entities.
    """

    model_config = ConfigDict(frozen=True)

    rows: int
    json_validity: float | None
    intent_accuracy: float | None
    entity_precision: float | None  # micro, over (type, value) pairs
    entity_recall: float | None
    entity_f1: float | None
    exact_match: float | None  # intent and every entity value right, none too many
    oos_recall: float | None
    oos_precision: float | None
    tokens_per_second: float | None  # generated tokens of all answers over the time of the run
    seconds: float
    latency_p50: float | None = None  # seconds from a question to its answer, as many being asked at a time as were
    latency_p95: float | None = None
    latency_p99: float | None = None
    first_token_p50: float | None = None


class Confusion(BaseModel):
    """How often each expected intent (row) was answered with each intent (column)."""

    model_config = ConfigDict(frozen=True)

    expected: list[str]
    answered: list[str]
    counts: list[list[int]]


def score(records: Sequence[Record], predictions: Sequence[Prediction], labels: LabelSet) -> Metrics:
    """Judge one prediction for each record. Raises UsageError where a record does not fit the label set."""
    for record in records:
        if faults := labels.problems(record.response):
            raise UsageError(
                f"The record {record.command[:60]!r} has {faults[0]} in the label set {labels.name!r}; "
                "evaluate with the label set of the data."
            )
    sums = ratios([record.response for record in records], [prediction.text for prediction in predictions])
    seconds = sum(prediction.seconds for prediction in predictions)
    tokens = sum(prediction.tokens for prediction in predictions)
    return Metrics(
        rows=len(records),
        tokens_per_second=tokens / seconds if tokens and seconds else None,
        seconds=seconds,
        **_latencies(predictions),
        **{name: ratio_value(numerators, denominators) for name, (numerators, denominators) in sums.items()},
    )


def _latencies(predictions: Sequence[Prediction]) -> dict[str, float]:
    whole = [prediction.latency for prediction in predictions if prediction.latency is not None]
    first = [prediction.first_token for prediction in predictions if prediction.first_token is not None]
    found = {f"latency_p{share}": float(np.percentile(whole, share)) for share in (50, 95, 99) if whole}
    return found | ({"first_token_p50": float(np.median(first))} if first else {})


def ratios(expected: Sequence[Response], answers: Sequence[str]) -> Ratios:
    """The numerator and denominator that each row adds to each metric."""

    terms = [_row_terms(response, parse_answer(text)) for response, text in zip(expected, answers, strict=True)]
    table = np.array([[row[name] for name in METRIC_TITLES] for row in terms], dtype=np.float64)
    table = table.reshape(len(terms), len(METRIC_TITLES), 2)
    return {name: (table[:, index, 0], table[:, index, 1]) for index, name in enumerate(METRIC_TITLES)}


def ratio_value(numerators: Float, denominators: Float) -> float | None:
    denominator = float(denominators.sum())
    return float(numerators.sum()) / denominator if denominator else None


def confusion(records: Sequence[Record], predictions: Sequence[Prediction], labels: LabelSet) -> Confusion:
    """The confusion matrix in the label set's order; unknown intents and invalid answers get a column of
    their own where they occur."""
    answered_intents = []
    for prediction in predictions:
        answer = parse_answer(prediction.text)
        if answer is None:
            answered_intents.append(NO_ANSWER)
        else:
            answered_intents.append(answer.intent if answer.intent in labels.intents else UNKNOWN_INTENT)
    expected = list(labels.intents)
    answered = expected + [extra for extra in (UNKNOWN_INTENT, NO_ANSWER) if extra in answered_intents]
    counts = [[0] * len(answered) for _ in expected]
    for record, intent in zip(records, answered_intents, strict=True):
        counts[expected.index(record.response.intent)][answered.index(intent)] += 1
    return Confusion(expected=expected, answered=answered, counts=counts)


def wilson_interval(successes: float, trials: float) -> tuple[float, float] | None:
    """The 95 % score interval of a proportion (Wilson 1927), None without trials."""
    if not trials:
        return None
    share = successes / trials
    spread = _Z_95**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = _Z_95 / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def _row_terms(expected: Response, answer: Response | None) -> dict[str, tuple[float, float]]:
    wanted = expected.entity_values()
    found = answer.entity_values() if answer else set()
    hits = len(wanted & found)
    intent_right = answer is not None and answer.intent == expected.intent
    expected_oos = expected.intent == OUT_OF_SCOPE
    answered_oos = answer is not None and answer.intent == OUT_OF_SCOPE
    return {
        "json_validity": (answer is not None, 1),
        "intent_accuracy": (intent_right, 1),
        "entity_precision": (hits, len(found)),
        "entity_recall": (hits, len(wanted)),
        "entity_f1": (2 * hits, len(wanted) + len(found)),
        "exact_match": (intent_right and wanted == found, 1),
        "oos_recall": (expected_oos and answered_oos, expected_oos),
        "oos_precision": (expected_oos and answered_oos, answered_oos),
    }
