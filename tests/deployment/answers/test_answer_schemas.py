import json
from typing import Any

import jsonschema
import pytest
from gbnf import Grammar
from hypothesis import given
from wild_commands import HOSTILE, commands

from deployment.answers.grammar import grounded_grammar
from deployment.answers.rules import AnswerRules, TypeRules
from deployment.answers.schema import MOST_WORDS, bounded_schema, grounded_schema, most_words, shortened
from deployment.answers.spans import Form, span_of, spans
from registry.records import MAX_VALUE, LabelSet, Record, answer_text, parse_answer

_MOST_SPANS = 500


def validates(text: str, schema: dict[str, Any]) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(json.loads(text))


def test_the_right_answers_of_the_sample_validate(
    sample: dict[str, list[Record]], sample_rules: AnswerRules, labels: LabelSet
) -> None:
    for record in sample["test"]:
        right = answer_text(record.response, labels)
        assert validates(right, bounded_schema(labels, sample_rules)), record
        assert validates(right, grounded_schema(record.command, labels, sample_rules)), record


@pytest.mark.parametrize(
    ("answer", "bounded", "grounded"),
    [
        ({"intent": "report_leak", "entities": {"asset": ["P-1", "oil"], "kind": "OIL", "%s": ["oil"]}}, True, True),
        ({"intent": "report_leak", "entities": {}}, True, True),
        ({"intent": "report_leak", "entities": {'a "note"': "any text"}}, True, True),
        ({"intent": "report_leak", "entities": {"asset": ["P-2"]}}, True, False),
        ({"intent": "report_leak", "entities": {"asset": ["ress"]}}, True, False),
        ({"intent": "report_leak", "entities": {"kind": "oil"}}, True, False),
        ({"intent": "report_leak", "entities": {'a "note"': "a longer text"}}, False, False),
        ({"intent": "report_leak", "entities": {"asset": "P-1"}}, False, False),
        ({"intent": "report_leak", "entities": {"asset": []}}, False, False),
        ({"intent": "report_leak", "entities": {"asset": ["P-1", "oil", "press"]}}, False, False),
        ({"intent": "report_leak", "entities": {"part": "oil"}}, False, False),
        ({"intent": "other", "entities": {}}, False, False),
        ({"intent": "out_of_scope", "entities": {}}, True, True),
        ({"intent": "out_of_scope", "entities": {"asset": ["P-1"]}}, False, False),
        ({"intent": "report_leak"}, False, False),
    ],
)
def test_a_schema_takes_what_the_label_set_and_the_rules_allow(
    answer: dict[str, Any], bounded: bool, grounded: bool, plant: LabelSet, rules: AnswerRules
) -> None:
    assert validates(json.dumps(answer), bounded_schema(plant, rules)) == bounded
    assert validates(json.dumps(answer), grounded_schema("press P-1 leaks oil", plant, rules)) == grounded


def offered(command: str, labels: LabelSet, rules: AnswerRules) -> dict[str, list[str]]:
    return {form: found["enum"] for form, found in grounded_schema(command, labels, rules)["$defs"].items()}


def require_spans(command: str, labels: LabelSet, rules: AnswerRules) -> None:
    jsonschema.Draft202012Validator.check_schema(grounded_schema(command, labels, rules))
    for form, values in offered(command, labels, rules).items():
        text = Form(form).of(command)
        assert 0 < len(values) <= _MOST_SPANS
        assert len(set(values)) == len(values)
        assert max(map(len, values)) <= MAX_VALUE
        assert all(span_of(value, text) is not None for value in values[:: 1 + len(values) // 50])


@given(command=commands())
def test_a_wild_command_has_a_schema_of_its_spans(command: str, plant: LabelSet, rules: AnswerRules) -> None:
    require_spans(command, plant, rules)
    if command.strip():
        words = most_words(command, Form.EXACT, rules)
        short, long = (set(spans(command, most_words=words, longest=longest)) for longest in (12, 24))
        assert short <= set(offered(command, plant, rules).get(Form.EXACT, ())) <= long


@pytest.mark.parametrize("command", HOSTILE, ids=lambda command: f"{len(command)} {command[:9]!a}")
def test_the_schema_of_any_command_is_bounded(command: str, plant: LabelSet, rules: AnswerRules) -> None:
    require_spans(command, plant, rules)


def test_a_type_that_no_span_is_there_for_is_left_out(plant: LabelSet, rules: AnswerRules) -> None:
    for command in (" \n ", "x" * 500):
        schema = grounded_schema(command, plant, rules)
        assert schema["$defs"] == {}
        assert list(schema["anyOf"][0]["properties"]["entities"]["properties"]) == ['a "note"']


def test_values_have_fewer_words_where_a_command_is_long() -> None:
    rules = AnswerRules(types={"note": TypeRules(form=Form.EXACT, grounded=1.0, longest=100, most=1)})
    commands = [" ".join(f"word{number}" for number in range(words)) for words in (5, 20, 40, 80, 150, 900)]
    counts = [most_words(command, Form.EXACT, rules) for command in commands]
    assert counts[0] == MOST_WORDS
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 1
    assert len(set(counts)) >= 4


def test_only_a_command_whose_values_are_cut_is_called_shortened(rules: AnswerRules) -> None:
    long = " ".join(f"word{number}" for number in range(100))
    assert shortened("press P-1 leaks oil", rules) is None
    assert shortened(" ".join(["pump"] * 100), rules) is None
    assert shortened(long, rules) == most_words(long, Form.UPPER, rules) < MOST_WORDS
    free = AnswerRules(types={"note": TypeRules(form=None, grounded=0.0, longest=9, most=1)})
    assert shortened(long, free) is None


def test_a_schema_takes_values_as_long_as_the_rules_have_them(plant: LabelSet, rules: AnswerRules) -> None:
    text = json.dumps({"intent": "report_leak", "entities": {"kind": "X" * MAX_VALUE}})
    assert parse_answer(text) is not None
    assert validates(text, bounded_schema(plant, rules))
    half = MAX_VALUE // 2
    assert validates(text.replace("X" * half, "", 1), grounded_schema(f"see {'x' * half}", plant, rules))


def test_a_schema_and_the_grammar_have_the_same_values(plant: LabelSet, rules: AnswerRules) -> None:
    command = f"see {'x' * 13} at P-1"
    grammar = Grammar(grounded_grammar(command, plant, rules))
    for value in spans(command, most_words=9, longest=99):
        text = json.dumps({"intent": "report_leak", "entities": {"asset": [value]}}, ensure_ascii=False)
        assert validates(text, grounded_schema(command, plant, rules)) == grammar.accepts(text), value
