"""How sure an answer is: scores from the probabilities of its tokens, and what they were found to mean.

A score is the log-odds of a probability that the model gave. It becomes a confidence by a sigmoid that was fitted to
answers known to be right or wrong (Platt 1999), which is part of the package's ``answers.json``.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from deployment.runtimes.logprobs import TokenLogprobs
from registry.records import OUT_OF_SCOPE

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_KEY = re.compile(rb"\s*:")
_LEAST = -30.0  # of a logarithm; what is less likely is as good as impossible
_MOST = -1e-9


class FieldScore(NamedTuple):
    """The log-odds of one value."""

    type: str
    value: str
    score: float


class Scores(NamedTuple):
    """The log-odds that the model itself gives to parts of an answer."""

    out_of_scope: float  # that it is this, whatever it said
    intent: float
    fields: tuple[FieldScore, ...]
    answer: float  # every token of it


class Sigmoid(BaseModel):
    """The share of right ones among those of a score: ``1 / (1 + exp(-(slope * score + intercept)))``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    slope: float = Field(ge=0.0)
    intercept: float

    def __call__(self, score: float) -> float:
        """The confidence, between 0 and 1."""
        exponent = self.slope * score + self.intercept
        return 1 / (1 + math.exp(-exponent)) if exponent >= 0 else math.exp(exponent) / (1 + math.exp(exponent))


class Confidence(NamedTuple):
    """How likely each part of an answer is right, between 0 and 1."""

    answer: float
    intent: float
    fields: tuple[FieldScore, ...]  # whose scores are confidences


class Doubt(BaseModel):
    """What the scores of a model's grounded answers mean, as they were calibrated."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    out_of_scope: Sigmoid
    intent: Sigmoid
    field: Sigmoid
    answer: Sigmoid
    out_of_scope_from: float = Field(
        description="log-odds of out of scope from which a command is, whatever the model said"
    )
    ask_below: float = Field(ge=0.0, le=1.0, description="confidence of an answer below which a person is to be asked")
    in_scope_rows: int = Field(ge=0, description="that it was calibrated on")
    out_of_scope_rows: int = Field(ge=0)
    source: str = Field(description="which rows these are")

    def rejects(self, logprobs: Sequence[TokenLogprobs]) -> bool:
        """Whether the command is out of scope by its score alone."""
        scores = scores_of(logprobs)
        return scores is not None and scores.out_of_scope >= self.out_of_scope_from

    def confidence(self, logprobs: Sequence[TokenLogprobs], intent: str) -> Confidence | None:
        """How sure the answer of these tokens is, whose intent became ``intent``; None where they tell nothing."""
        scores = scores_of(logprobs)
        if scores is None:
            return None
        if intent == OUT_OF_SCOPE:
            sure = self.out_of_scope(scores.out_of_scope)
            return Confidence(sure, sure, ())
        fields = tuple(field._replace(score=self.field(field.score)) for field in scores.fields)
        return Confidence(self.answer(scores.answer), self.intent(scores.intent), fields)


def scores_of(logprobs: Sequence[TokenLogprobs]) -> Scores | None:
    """The scores of an answer by its tokens; None where they are no answer of the form that all have.

    A token counts for the part in which it begins: the intent with what opens the answer, then each value with its key
    and the quote that ends it.
    """
    text = b"".join(token.text for token in logprobs)
    parts = list(_parts(text))
    if not parts or parts[0].type:
        return None
    sums, part, place = [0.0] * (len(parts) + 1), 0, 0
    for token in logprobs:
        while part < len(parts) and place >= parts[part].end:
            part += 1
        sums[part] += token.logprob
        place += len(token.text)
    fields = (
        FieldScore(kind, value, _log_odds(total))
        for (kind, value, *_), total in zip(parts[1:], sums[1:-1], strict=True)
    )
    opening = text[: parts[0].start + 1]
    return Scores(
        out_of_scope=_log_odds(_logprob_of_going_on(logprobs, opening + f'{OUT_OF_SCOPE}"'.encode())),
        intent=_log_odds(sums[0]),
        fields=tuple(fields),
        answer=_log_odds(sum(sums)),
    )


class _Part(NamedTuple):
    type: str  # empty for the intent
    value: str
    start: int  # of its string, in bytes
    end: int


def _parts(text: bytes) -> Iterator[_Part]:
    """The strings of an answer that are values, the intent first."""
    key = None
    for match in _STRING.finditer(text):
        try:
            string = json.loads(match[0])
        except ValueError:  # of bytes that are no text, too
            return
        if _KEY.match(text, match.end()):
            key = string
        elif key is not None:
            yield _Part("" if key == "intent" else key, string, match.start(), match.end())


def _logprob_of_going_on(logprobs: Sequence[TokenLogprobs], wanted: bytes) -> float:
    """Of the answer's being ``wanted`` to its end, as far as its tokens tell: to where they part, and the first step
    from there."""
    total, text = 0.0, b""
    for token in logprobs:
        so_far = text + token.text
        if not _agree(so_far, wanted):
            shared = _shared(so_far, wanted)
            others = ((text + other, logprob) for other, logprob in token.likeliest)
            likely = [logprob for other, logprob in others if _agree(other, wanted) and _shared(other, wanted) > shared]
            return total + (_log_sum(likely) if likely else _LEAST)
        total, text = total + token.logprob, so_far
        if len(text) >= len(wanted):
            break
    return total


def _agree(one: bytes, other: bytes) -> bool:
    return one.startswith(other) or other.startswith(one)


def _shared(one: bytes, other: bytes) -> int:
    """Bytes with which both begin."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _log_sum(logprobs: Sequence[float]) -> float:
    return math.log(max(math.fsum(map(math.exp, logprobs)), math.exp(_LEAST)))


def _log_odds(logprob: float) -> float:
    """Of a probability by its logarithm."""
    logprob = min(max(logprob, _LEAST), _MOST)
    return logprob - math.log(-math.expm1(logprob))
