"""The one policy by which a command becomes an answer: in evaluation, ``ask``, the gateway and on a device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployment.answers.grammar import grounded_grammar
from deployment.answers.rules import AnswerRules, default_rules
from deployment.answers.schema import bounded_schema, grounded_schema
from deployment.runtimes.decoding import FREE, Decoding, Mode
from registry.errors import UsageError
from registry.records import LabelSet, Response, answer_text, parse_answer


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Answers of the label set's form, with any values. A :class:`~deployment.runtimes.decoding.Decoding`."""

    labels: LabelSet
    rules: AnswerRules

    def llama_cpp(self, command: str) -> Mapping[str, Any]:
        return {"json_schema": bounded_schema(self.labels, self.rules)}

    def json_schema(self, command: str) -> Mapping[str, Any]:
        return bounded_schema(self.labels, self.rules)

    def finished(self, text: str) -> str:
        return text


@dataclass(frozen=True, kw_only=True)
class Grounded:
    """Answers whose values stand in the command, none twice where no training row has that."""

    labels: LabelSet
    rules: AnswerRules

    def llama_cpp(self, command: str) -> Mapping[str, Any]:
        return {"grammar": grounded_grammar(command, self.labels, self.rules)}

    def json_schema(self, command: str) -> Mapping[str, Any]:
        return grounded_schema(command, self.labels, self.rules)

    def finished(self, text: str) -> str:
        """Without the values that come again: the first one stays. To ask anew without them was tried, and is worse."""
        response = parse_answer(text)
        if response is None or self.labels.problems(response):
            return text
        return self._without_repetitions(text, response)

    def _without_repetitions(self, text: str, response: Response) -> str:
        kept: list[tuple[str, str]] = []
        values = response.listed()
        for name, value in values:
            if all(value != other or self.rules.may_repeat(earlier, name) for earlier, other in kept):
                kept.append((name, value))
        if len(kept) == len(values):
            return text
        entities: dict[str, str | list[str]] = {}
        for name, value in kept:
            entities[name] = [*entities.get(name, ()), value]
        compact = not text.startswith('{"intent": ')
        return answer_text(Response(intent=response.intent, entities=entities), self.labels, compact=compact)


def decoding_of(mode: Mode, labels: LabelSet | None, rules: AnswerRules | None = None) -> Decoding:
    """How answers are held in ``mode``; without ``rules``, by the label set alone.

    Raises UsageError where the mode needs a label set and there is none.
    """
    if mode == Mode.FREE:
        return FREE
    if labels is None:
        raise UsageError(f"{mode} answers need a label set; give --labels, or a package, which has its own.")
    kind = Schema if mode == Mode.SCHEMA else Grounded
    return kind(labels=labels, rules=rules or default_rules(labels))
