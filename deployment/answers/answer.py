"""What a program gets for a command: the answer with where its values stand, and how it came about."""

import json
import re
from collections.abc import Mapping
from typing import Self

import json_repair
from pydantic import BaseModel, ConfigDict, Field

from deployment.answers.doubt import Confidence, Doubt
from deployment.answers.spans import span_of
from deployment.runtimes.decoding import Mode
from deployment.runtimes.prediction import Prediction
from registry.records import OUT_OF_SCOPE, Response, parse_answer

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_KEY = re.compile(r"\s*:")


class Span(BaseModel):
    """One value of an entity, and its characters in the command where it stands there as it is."""

    model_config = ConfigDict(frozen=True)

    type: str
    value: str
    start: int | None = None
    end: int | None = None
    confidence: float | None = None  # that the value is right, 0..1, where the model's doubt is calibrated


class Answer(BaseModel):
    """The answer to one command; ``intent`` is None where there is none, and ``failure`` says why."""

    model_config = ConfigDict(frozen=True)

    command: str
    intent: str | None
    entities: dict[str, str | list[str]] = Field(default_factory=dict)
    spans: tuple[Span, ...] = ()
    confidence: float | None = None  # that all of the answer is right, 0..1, where the model's doubt is calibrated
    intent_confidence: float | None = None
    ask_person: bool = False  # the confidence is less than the package asks for
    done: bool = True  # False while a stream goes on
    decoding: Mode = Mode.GROUNDED
    repaired: bool = False  # a free answer that was no JSON until it was mended
    longest: int | None = None  # words that a value could have at the most, where the command was too long for more
    failure: str = ""
    tokens: int = 0  # generated; 0 where a server does not say
    seconds: float = 0.0

    @property
    def out_of_scope(self) -> bool:
        """Whether the command is none for the plant's audit."""
        return self.intent == OUT_OF_SCOPE

    @property
    def response(self) -> Response | None:
        """Intent and entities alone, as a device answers them."""
        return None if self.intent is None else Response(intent=self.intent, entities=self.entities)

    @classmethod
    def of(
        cls,
        command: str,
        prediction: Prediction,
        *,
        mode: Mode,
        longest: int | None = None,
        doubt: Doubt | None = None,
    ) -> Self:
        """The answer in what a model said. A free one that is no JSON is repaired where that gives an answer."""
        response, repaired = parse_answer(prediction.text), False
        if response is None and mode == Mode.FREE and prediction.text:
            response = _repaired(prediction.text)
            repaired = response is not None
        failure = prediction.failure
        if response is None and not failure:
            failure = f"The model's answer is not of the form that it should have: {prediction.text[:200]!r}."
        sure = doubt.confidence(prediction.logprobs, response.intent) if doubt and response else None
        return cls(
            command=command,
            intent=response.intent if response else None,
            entities=response.entities if response else {},
            spans=_spans(command, response.listed(), sure) if response else (),
            confidence=sure and sure.answer,
            intent_confidence=sure and sure.intent,
            ask_person=bool(doubt and sure and sure.answer < doubt.ask_below),
            decoding=mode,
            repaired=repaired,
            longest=longest,
            failure=failure,
            tokens=prediction.tokens,
            seconds=prediction.seconds,
        )

    @classmethod
    def so_far(cls, command: str, text: str, *, mode: Mode) -> Self:
        """What is certain of an answer of which ``text`` has come: whole values alone."""
        intent, values = _read(text)
        entities: dict[str, str | list[str]] = {}
        for name, value in values:
            entities[name] = [*entities.get(name, ()), value]
        return cls(
            command=command, intent=intent, entities=entities, spans=_spans(command, values), done=False, decoding=mode
        )


def _spans(command: str, values: list[tuple[str, str]], sure: Confidence | None = None) -> tuple[Span, ...]:
    found, confidences = [], {}
    for field in reversed(sure.fields if sure else ()):  # of a value that comes again, the first
        confidences[field.type, field.value] = field.score
    for name, value in values:
        start, end = span_of(value, command) or (None, None)
        found.append(Span(type=name, value=value, start=start, end=end, confidence=confidences.get((name, value))))
    return tuple(found)


def _repaired(text: str) -> Response | None:
    mended = json_repair.loads(text)
    if not isinstance(mended, Mapping):
        return None
    return parse_answer(json.dumps(mended, ensure_ascii=False))


def _read(text: str) -> tuple[str | None, list[tuple[str, str]]]:
    """The intent and the whole values in the beginning of an answer."""
    intent, values, key = None, [], ""
    for match in _STRING.finditer(text):
        try:
            string = json.loads(match[0])
        except ValueError:
            break
        if _KEY.match(text, match.end()):
            key = string
        elif intent is None and key == "intent":
            intent = string
        elif not string.strip():  # which makes the whole no answer
            break
        elif match.end() < len(text):  # else more of the value's string could be a key's
            values.append((key, string))
    return intent, values
