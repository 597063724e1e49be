"""The one policy by which a command becomes an answer: in evaluation, ``ask``, the gateway and on a device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deployment.answers.grammar import grounded_grammar
from deployment.answers.rules import AnswerRules, default_rules
from deployment.answers.schema import bounded_schema, grounded_schema
from deployment.answers.spans import span_of
from deployment.runtimes.decoding import FREE, Decoding, Mode
from deployment.runtimes.logprobs import LIKELIEST, TokenLogprobs
from registry.errors import UsageError
from registry.records import OUT_OF_SCOPE, LabelSet, Response, answer_text, parse_answer


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Answers of the label set's form, with any values. A :class:`~deployment.runtimes.decoding.Decoding`."""

    labels: LabelSet
    rules: AnswerRules
    logprobs: int = 0

    def llama_cpp(self, command: str) -> Mapping[str, Any]:
        return {"json_schema": bounded_schema(self.labels, self.rules)}

    def json_schema(self, command: str) -> Mapping[str, Any]:
        return bounded_schema(self.labels, self.rules)

    def finished(self, command: str, text: str, logprobs: Sequence[TokenLogprobs] = ()) -> str:
        return text


@dataclass(frozen=True, kw_only=True)
class Grounded:
    """Answers whose values stand in the command, none twice where no training row has that.

    With ``logprobs``, a command is out of scope, too, where the rules' doubt says so.
    """

    labels: LabelSet
    rules: AnswerRules
    logprobs: int = 0

    def llama_cpp(self, command: str) -> Mapping[str, Any]:
        return {"grammar": grounded_grammar(command, self.labels, self.rules)}

    def json_schema(self, command: str) -> Mapping[str, Any]:
        return grounded_schema(command, self.labels, self.rules)

    def finished(self, command: str, text: str, logprobs: Sequence[TokenLogprobs] = ()) -> str:
        """Without the values that come again: the first one stays. To ask anew without them was tried, and is worse.

        Nor with values that do not stand in ``command``: a server may not keep to a schema, and llama.cpp takes a
        character spelled in too many bytes for the one that the grammar names, which is then no text.
        """
        response = parse_answer(text)
        if response is None or self.labels.problems(response):
            return text
        if response.intent != OUT_OF_SCOPE and self.rules.doubt and self.rules.doubt.rejects(logprobs):
            return self._written(Response(intent=OUT_OF_SCOPE, entities={}), like=text)
        return self._allowed(command, text, response)

    def _allowed(self, command: str, text: str, response: Response) -> str:
        kept: list[tuple[str, str]] = []
        values = response.listed()
        for name, value in values:
            form = self.rules.types[name].form
            if form and span_of(value, form.of(command)) is None:
                continue
            if all(value != other or self.rules.may_repeat(earlier, name) for earlier, other in kept):
                kept.append((name, value))
        if len(kept) == len(values):
            return text
        entities: dict[str, str | list[str]] = {}
        for name, value in kept:
            entities[name] = [*entities.get(name, ()), value]
        return self._written(Response(intent=response.intent, entities=entities), like=text)

    def _written(self, response: Response, *, like: str) -> str:
        return answer_text(response, self.labels, compact=not like.startswith('{"intent": '))


def decoding_of(
    mode: Mode, labels: LabelSet | None, rules: AnswerRules | None = None, *, logprobs: int | None = None
) -> Decoding:
    """How answers are held in ``mode``; without ``rules``, by the label set alone.

    ``logprobs`` None asks for what the doubt of grounded answers needs, where the rules have it.

    Raises UsageError where the mode needs a label set and there is none.
    """
    if mode == Mode.FREE:
        return FREE
    if labels is None:
        raise UsageError(f"{mode} answers need a label set; give --labels, or a package, which has its own.")
    rules = rules or default_rules(labels)
    if mode == Mode.SCHEMA:
        return Schema(labels=labels, rules=rules)
    if logprobs is None:
        logprobs = LIKELIEST if rules.doubt else 0
    return Grounded(labels=labels, rules=rules, logprobs=logprobs)
