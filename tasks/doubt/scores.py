"""Answers to labelled records beside the scores that the model gave them: what doubt is calibrated and judged by."""

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from deployment.answers.doubt import scores_of
from deployment.runtimes.prediction import Prediction
from registry.records import OUT_OF_SCOPE, Record, parse_answer


class Judged(NamedTuple):
    """A score, and whether what it stands for is right."""

    score: float
    right: bool


class ScoredAnswer(BaseModel):
    """One answer; scores are log-odds, see :mod:`deployment.answers.doubt`."""

    model_config = ConfigDict(frozen=True)

    out_of_scope: Judged  # right: the record is
    rejected: bool  # the answer says so
    intent: Judged
    answer: Judged
    fields: tuple[Judged, ...]


def scored_answers(records: Sequence[Record], predictions: Sequence[Prediction]) -> list[ScoredAnswer]:
    """Those of ``predictions``, one for each record, that are answers whose tokens are told."""
    found = []
    for record, prediction in zip(records, predictions, strict=True):
        response, scores = parse_answer(prediction.text), scores_of(prediction.logprobs)
        if response is None or scores is None:
            continue
        expected, wanted = record.response, record.response.entity_values()
        right = response.intent == expected.intent
        found.append(
            ScoredAnswer(
                out_of_scope=Judged(scores.out_of_scope, expected.intent == OUT_OF_SCOPE),
                rejected=response.intent == OUT_OF_SCOPE,
                intent=Judged(scores.intent, right),
                answer=Judged(scores.answer, right and response.entity_values() == wanted),
                fields=tuple(
                    Judged(field.score, (field.type, field.value) in wanted)
                    for field in scores.fields
                    if response.intent != OUT_OF_SCOPE
                ),
            )
        )
    return found
