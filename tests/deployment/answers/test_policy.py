from dataclasses import replace

import pytest

from deployment.answers.grammar import grounded_grammar
from deployment.answers.policy import Grounded, Mode, Schema, decoding_of
from deployment.answers.rules import AnswerRules, default_rules
from deployment.answers.schema import bounded_schema, grounded_schema
from deployment.answers.spans import Form
from deployment.runtimes.decoding import FREE
from registry.errors import UsageError
from registry.records import LabelSet


@pytest.fixture
def grounded() -> Grounded:
    labels = LabelSet(
        name="plant",
        intents={"check": ""},
        entities={"asset": "", "part": "", "place": ""},
        many=("asset", "part"),
    )
    return Grounded(labels=labels, rules=default_rules(labels))


COMMAND = "check P-1 and P-2: seal, Öl, in the hall"


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        (
            '{"intent": "check", "entities": {"asset": ["P-1", "P-2", "P-1"], "place": "hall"}}',
            '{"intent": "check", "entities": {"asset": ["P-1", "P-2"], "place": "hall"}}',
        ),
        (
            '{"intent":"check","entities":{"asset":["P-1","P-1"],"part":["seal"]}}',
            '{"intent":"check","entities":{"asset":["P-1"],"part":["seal"]}}',
        ),
        (
            '{"intent": "check", "entities": {"asset": ["P-1"], "part": ["seal", "P-1"], "place": "P-1"}}',
            '{"intent": "check", "entities": {"asset": ["P-1"], "part": ["seal"]}}',
        ),
        (
            '{"intent":"check","entities":{"part":["Öl"],"place":"Öl"}}',
            '{"intent":"check","entities":{"part":["Öl"]}}',
        ),
    ],
    ids=["list", "compact", "two types", "not ASCII"],
)
def test_a_value_that_comes_again_is_dropped_and_the_rest_is_kept(grounded: Grounded, text: str, finished: str) -> None:
    assert grounded.finished(COMMAND, text) == finished
    assert grounded.finished(COMMAND, finished) == finished


def test_a_value_may_come_again_where_the_rules_know_it(grounded: Grounded) -> None:
    twice = grounded.rules.types["asset"].model_copy(update={"repeats": True})
    rules = AnswerRules(types={**grounded.rules.types, "asset": twice}, shared=(("asset", "place"),))
    knowing = replace(grounded, rules=rules)
    text = '{"intent": "check", "entities": {"asset": ["P-1", "P-1"], "place": "P-1"}}'
    assert knowing.finished(COMMAND, text) == text
    more = '{"intent": "check", "entities": {"asset": ["P-1", "P-1"], "part": ["P-1", "seal"], "place": "P-1"}}'
    assert knowing.finished(COMMAND, more) == text.replace('"place"', '"part": ["seal"], "place"')


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "",
        '{"intent": "check"}',
        '{"intent": "check", "entities": {"asset": "P-1"}}',
        ' {"entities": {"asset": ["P-1", "P-2"]}, "intent": "check"}',
        '{"intent": "check", "entities": {"unknown": ["P-1", "P-1"]}}',
        '{"intent": "out_of_scope", "entities": {"asset": ["P-1", "P-1"]}}',
    ],
)
def test_any_other_text_stays_as_it_came(grounded: Grounded, text: str) -> None:
    assert grounded.finished(COMMAND, text) == text


def test_a_value_that_does_not_stand_in_the_command_is_dropped(grounded: Grounded) -> None:
    broken = b"\xf0\x82\x80\x8d".decode(errors="replace")  # four bytes for U+200D, as llama.cpp's grammar takes them
    text = f'{{"intent": "check", "entities": {{"asset": ["P-1", "{broken}"], "place": "P-3"}}}}'
    assert grounded.finished("P-1\u200d", text) == '{"intent": "check", "entities": {"asset": ["P-1"]}}'
    types = grounded.rules.types
    lower = {**types, "place": types["place"].model_copy(update={"form": Form.LOWER})}
    loose = replace(
        grounded, rules=AnswerRules(types={**lower, "asset": types["asset"].model_copy(update={"form": None})})
    )
    assert loose.finished("P-3", text.replace('"P-3"', '"p-3"')) == text.replace('"P-3"', '"p-3"')


def test_a_schema_leaves_repetitions_as_they_are(plant: LabelSet, rules: AnswerRules) -> None:
    text = '{"intent": "report_leak", "entities": {"asset": ["P-1", "P-1"]}}'
    assert Schema(labels=plant, rules=rules).finished(COMMAND, text) == text


def test_each_mode_holds_an_answer_as_far_as_it_says(plant: LabelSet, rules: AnswerRules) -> None:
    command = "press P-1 leaks oil"
    assert decoding_of(Mode.FREE, plant, rules) is FREE
    schema = decoding_of(Mode.SCHEMA, plant, rules)
    assert schema.llama_cpp(command) == {"json_schema": bounded_schema(plant, rules)}
    assert schema.json_schema(command) == bounded_schema(plant, rules)
    grounded = decoding_of(Mode.GROUNDED, plant, rules)
    assert grounded.llama_cpp(command) == {"grammar": grounded_grammar(command, plant, rules)}
    assert grounded.json_schema(command) == grounded_schema(command, plant, rules)


@pytest.mark.parametrize("mode", [Mode.SCHEMA, Mode.GROUNDED])
def test_an_answer_is_held_by_the_label_set_alone_where_no_rules_are_known(mode: Mode, plant: LabelSet) -> None:
    assert decoding_of(mode, plant) == decoding_of(mode, plant, default_rules(plant))


@pytest.mark.parametrize("mode", [Mode.SCHEMA, Mode.GROUNDED])
def test_a_mode_that_needs_a_label_set_is_refused_without_one(mode: Mode) -> None:
    assert decoding_of(Mode.FREE, None) is FREE
    with pytest.raises(UsageError, match=f"^{mode} answers need a label set; give --labels, or a package"):
        decoding_of(mode, None)
