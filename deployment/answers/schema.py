"""The JSON Schema of answers for servers that take no grammar: Ollama's ``format``, OpenAI's ``response_format``."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from deployment.answers.rules import AnswerRules
from deployment.answers.spans import spans
from registry.records import MAX_VALUE, LabelSet, answer_schema

MOST_WORDS = 8  # of a value, at the most
_MOST_SPANS = 500  # of an enumeration: a server takes 0.06 s to compile 400, and over a second for 3,000


def bounded_schema(labels: LabelSet, rules: AnswerRules) -> dict[str, Any]:
    """The schema of every answer that ``labels`` allow, its strings and lists as long as ``rules`` know them."""

    def value(name: str) -> Mapping[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": rules.types[name].longest}

    return answer_schema(labels, {name: _form(name, value(name), labels, rules) for name in labels.entities})


def grounded_schema(command: str, labels: LabelSet, rules: AnswerRules) -> dict[str, Any]:
    """The schema of the answers to ``command``: the values of grounded types are one enumeration of its spans.

    The spans are of up to :func:`most_words`, and where even those of one word are too many the first ones. A type that
    no span is there for is left out.
    """
    definitions: dict[str, Any] = {}
    entities: dict[str, Any] = {}
    for name in labels.entities:
        known = rules.types[name]
        if known.form is None:
            value: Mapping[str, Any] = {"type": "string", "minLength": 1, "maxLength": known.longest}
        else:
            if known.form not in definitions:
                text = known.form.of(command)
                definitions[known.form] = {"enum": _spans(text, most_words(text))[:_MOST_SPANS]}
            value = {"$ref": f"#/$defs/{known.form}"}
            if not definitions[known.form]["enum"]:
                continue
        entities[name] = _form(name, value, labels, rules)
    used = {form: found for form, found in definitions.items() if found["enum"]}
    return {**answer_schema(labels, entities), "$defs": used}


def most_words(text: str) -> int:
    """How many words a value can have in the schema of a text: fewer where it is long."""
    counts = range(MOST_WORDS, 1, -1)
    return next((count for count in counts if len(_spans(text, count)) <= _MOST_SPANS), 1)


def _spans(text: str, words: int) -> list[str]:
    """The spans of up to ``words``, or one more than a schema can hold."""
    return list(islice(spans(text, most_words=words, longest=MAX_VALUE), _MOST_SPANS + 1))


def shortened(command: str, rules: AnswerRules) -> int | None:
    """The most words that a value of the answer to ``command`` can have by its schema, where these are fewer than the
    command has and than usual; else None."""
    forms = {known.form for known in rules.types.values() if known.form}
    words = min((most_words(form.of(command)) for form in forms), default=MOST_WORDS)
    return words if words < min(MOST_WORDS, len(command.split())) else None


def _form(name: str, value: Mapping[str, Any], labels: LabelSet, rules: AnswerRules) -> Mapping[str, Any]:
    if name not in labels.many:
        return value
    return {"type": "array", "items": value, "minItems": 1, "maxItems": rules.types[name].most}
