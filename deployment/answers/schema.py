"""The JSON Schema of answers for servers that take no grammar: Ollama's ``format``, OpenAI's ``response_format``."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from deployment.answers.grammar import span_automaton
from deployment.answers.rules import AnswerRules
from deployment.answers.spans import Form, atoms, spans
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

    These are the spans that the grammar has, of up to :func:`most_words`, and where even those of one word are too many
    the first ones. A type that no span is there for is left out.
    """
    definitions: dict[str, Any] = {}
    entities: dict[str, Any] = {}
    for name in labels.entities:
        known = rules.types[name]
        if known.form is None:
            value: Mapping[str, Any] = {"type": "string", "minLength": 1, "maxLength": known.longest}
        else:
            if known.form not in definitions:
                definitions[known.form] = {"enum": _offered(command, known.form, rules)[1]}
            value = {"$ref": f"#/$defs/{known.form}"}
            if not definitions[known.form]["enum"]:
                continue
        entities[name] = _form(name, value, labels, rules)
    used = {form: found for form, found in definitions.items() if found["enum"]}
    return {**answer_schema(labels, entities), "$defs": used}


def most_words(command: str, form: Form, rules: AnswerRules) -> int:
    """How many words a value of ``form`` can have in the schema of a command: fewer where it is long."""
    return _offered(command, form, rules)[0]


def _offered(command: str, form: Form, rules: AnswerRules) -> tuple[int, list[str]]:
    """The words that a value can have at the most, and the values."""
    automaton, text = span_automaton(command, form, rules), form.of(command)

    def found(words: int) -> list[str]:
        whole = spans(text, most_words=words, longest=MAX_VALUE)
        return list(islice((span for span in whole if automaton.accepts(atoms(span))), _MOST_SPANS + 1))

    counts = range(MOST_WORDS, 1, -1)
    words = next((count for count in counts if len(found(count)) <= _MOST_SPANS), 1)
    return words, found(words)[:_MOST_SPANS]


def shortened(command: str, rules: AnswerRules) -> int | None:
    """The most words that a value of the answer to ``command`` can have by its schema, where these are fewer than the
    command has and than usual; else None."""
    forms = {known.form for known in rules.types.values() if known.form}
    words = min((most_words(command, form, rules) for form in forms), default=MOST_WORDS)
    return words if words < min(MOST_WORDS, len(command.split())) else None


def _form(name: str, value: Mapping[str, Any], labels: LabelSet, rules: AnswerRules) -> Mapping[str, Any]:
    if name not in labels.many:
        return value
    return {"type": "array", "items": value, "minItems": 1, "maxItems": rules.types[name].most}
