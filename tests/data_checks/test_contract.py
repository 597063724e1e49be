import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from data_checks.contract import Problem, read_jsonl, write_jsonl
from registry.errors import UsageError
from registry.records import (
    OUT_OF_SCOPE,
    LabelSet,
    Record,
    Response,
    answer_text,
    infer_label_set,
    label_set_toml,
    load_label_set,
    parse_answer,
    parse_label_set,
    response_schema,
    same_answer,
)

LABELS = LabelSet(
    name="press-shop",
    intents={"report_issue": "a fault", "query_status": "a question", OUT_OF_SCOPE: "anything else"},
    entities={"asset_id": "plate", "issue": "fault", "date": "when"},
)
SOUND_LINE = '{"command": "SG-402 leaks", "response": {"intent": "report_issue", "entities": {"asset_id": "SG-402"}}}'


# Text that UTF-8 can hold; "Cs" are the lone surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
values = texts.filter(str.strip)
names = values
either = st.one_of(values, st.lists(values, min_size=1, max_size=4))


@st.composite
def allowed_responses(draw: st.DrawFn) -> Response:
    intent = draw(st.sampled_from(list(LABELS.intents)))
    if intent == OUT_OF_SCOPE:
        return Response(intent=intent, entities={})
    return Response(intent=intent, entities=draw(st.dictionaries(st.sampled_from(list(LABELS.entities)), either)))


@st.composite
def label_sets(draw: st.DrawFn) -> LabelSet:
    entities = draw(st.dictionaries(names, st.one_of(texts, st.just("")), max_size=5))
    return LabelSet(
        name=draw(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,10}", fullmatch=True)),
        intents=draw(st.dictionaries(names, st.one_of(texts, st.just("")), min_size=2, max_size=5)),
        entities=entities,
        many=tuple(name for name in entities if draw(st.booleans())),
        golden=tuple(draw(st.lists(texts, max_size=3))),
    )


@given(allowed_responses())
def test_the_answer_of_a_response_reads_back_with_the_same_entity_values(response: Response) -> None:
    answer = parse_answer(answer_text(response, LABELS))
    assert answer is not None
    assert answer.intent == response.intent
    assert answer.entity_values() == response.entity_values()


@given(allowed_responses())
def test_the_schema_allows_every_answer_that_the_label_set_allows(response: Response) -> None:
    labels = LABELS.learnt([response])
    assert not labels.problems(response)
    assert Draft202012Validator(response_schema(labels)).is_valid(json.loads(answer_text(response, labels)))


@pytest.mark.parametrize(
    "answer",
    [
        {"intent": "dance", "entities": {}},
        {"intent": "report_issue", "entities": {"colour": "red"}},
        {"intent": OUT_OF_SCOPE, "entities": {"asset_id": "SG-402"}},
        {"intent": "report_issue"},
        {"intent": "report_issue", "entities": {}, "mood": "good"},
        {"intent": "report_issue", "entities": {"asset_id": ""}},
        {"intent": "report_issue", "entities": {"asset_id": []}},
        {"intent": "report_issue", "entities": {"asset_id": "x" * 201}},
        {"intent": "report_issue", "entities": {"asset_id": ["x"] * 17}},
        {"intent": "report_issue", "entities": {"asset_id": 402}},
    ],
)
def test_schema_and_contract_refuse_the_same_answers(answer: dict) -> None:
    assert not Draft202012Validator(response_schema(LABELS)).is_valid(answer)
    response = parse_answer(json.dumps(answer))
    assert response is None or LABELS.problems(response)


def test_the_schema_is_valid_json_schema() -> None:
    Draft202012Validator.check_schema(response_schema(LABELS))


def test_an_answer_lists_entities_in_the_order_of_the_label_set() -> None:
    response = Response(intent="report_issue", entities={"issue": ["leak"], "asset_id": ["A-1", "A-2"]})
    assert answer_text(response, LABELS) == (
        '{"intent": "report_issue", "entities": {"asset_id": ["A-1", "A-2"], "issue": "leak"}}'
    )


def test_an_entity_type_has_one_form_in_every_answer() -> None:
    two = Response(intent="report_issue", entities={"asset_id": ["A-1", "A-2"], "issue": ["leak"]})
    labels = LABELS.learnt([two, Response(intent="report_issue", entities={"date": "today"})])
    assert labels.many == ("asset_id",)
    one = Response(intent="report_issue", entities={"asset_id": "A-1", "issue": "leak"})
    text = answer_text(one, labels)
    assert text == '{"intent": "report_issue", "entities": {"asset_id": ["A-1"], "issue": "leak"}}'
    assert same_answer(text, answer_text(one, LABELS)), "a champion of another form is judged by its values"
    schema = Draft202012Validator(response_schema(labels))
    assert schema.is_valid(json.loads(text))
    assert not schema.is_valid(json.loads(answer_text(one, LABELS)))
    assert labels.learnt([one]).many == ("asset_id",), "what a label set says stays"


@pytest.mark.parametrize(
    ("entities", "reason"),
    [
        ('asset = {description = "plate", plural = true}', "entity type 'asset' has plural"),
        ('asset = {many = "yes"}', "entity type 'asset' has many = 'yes'; set true or false"),
        ("asset = 3", "entities.asset"),
        ('asset = "plate"\n[golden]', "golden"),
    ],
)
def test_an_entity_type_that_says_anything_else_is_refused(entities: str, reason: str) -> None:
    text = f'name = "p"\n[intents]\nstop = ""\n[entities]\n{entities}'
    with pytest.raises(UsageError, match=reason):
        parse_label_set(text, "text")


@pytest.mark.parametrize("many", ['["colour"]', "[3]", "true", "[[]]"])
def test_many_names_entity_types(many: str) -> None:
    with pytest.raises(UsageError, match="many"):
        parse_label_set(f'name = "p"\nmany = {many}\n[intents]\nstop = ""\n[entities]\nasset = "plate"', "text")


def test_two_outputs_are_alike_by_what_they_say() -> None:
    spaced, compact = '{"intent": "stop", "entities": {}}', '{"intent":"stop","entities":{}}'
    assert same_answer(spaced, compact)
    assert not same_answer(spaced, '{"intent": "start", "entities": {}}')
    assert same_answer('{"intent": "stop", "entities": {"a": "1"}}', '{"intent": "stop", "entities": {"a": ["1"]}}')
    assert not same_answer('{"intent": "stop", "entities": {"a": "1"}}', spaced)
    assert same_answer("no JSON", " no JSON\n")
    assert not same_answer("no JSON", "nor this")
    assert not same_answer("no JSON", spaced)


def test_text_that_is_no_answer_parses_to_none() -> None:
    assert parse_answer("the machine is fine") is None
    assert parse_answer('{"intent": "report_issue"') is None


@given(label_sets())
def test_a_label_set_survives_toml(labels: LabelSet) -> None:
    assert parse_label_set(label_set_toml(labels), "text") == labels


def test_a_label_set_always_knows_out_of_scope() -> None:
    labels = LabelSet(name="a", intents={"x": "", "y": ""}, entities={})
    assert list(labels.intents) == ["x", "y", OUT_OF_SCOPE]


def test_an_inferred_label_set_lists_what_the_responses_use_in_order() -> None:
    responses = [
        Response(intent="b", entities={"z": "1"}),
        Response(intent="a", entities={"y": "1", "z": "2"}),
    ]
    labels = infer_label_set("plant", responses)
    assert list(labels.intents) == ["b", "a", OUT_OF_SCOPE]
    assert list(labels.entities) == ["z", "y"]


def test_records_that_are_all_out_of_scope_give_no_label_set() -> None:
    with pytest.raises(UsageError, match="no intent besides out_of_scope"):
        infer_label_set("plant", [Response(intent=OUT_OF_SCOPE, entities={})])


def test_a_broken_label_set_names_every_fault(tmp_path: Path) -> None:
    (tmp_path / "labels.toml").write_text('name = "Not A Slug"\n[intents]\na = ""\nb = ""\n')
    with pytest.raises(UsageError, match=r"labels\.toml: name: .*; entities: "):
        load_label_set(tmp_path / "labels.toml")
    (tmp_path / "labels.toml").write_text("name = ")
    with pytest.raises(UsageError, match="is no TOML"):
        load_label_set(tmp_path / "labels.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        load_label_set(tmp_path / "missing.toml")


@given(st.lists(st.one_of(st.binary(max_size=80), texts.map(str.encode), st.just(SOUND_LINE.encode())), max_size=6))
def test_any_bytes_give_records_and_problems_and_never_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("wild") / "wild.jsonl"
    path.write_bytes(b"\n".join(lines))
    records, problems = read_jsonl(path, LABELS)
    assert all(isinstance(record, Record) for record in records)
    assert all(isinstance(problem, Problem) and problem.reason and "\n" not in problem.reason for problem in problems)
    assert len(records) >= lines.count(SOUND_LINE.encode()) - 1  # a BOM or a stray quote can spoil no other line


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "command": json_values,
            "response": st.one_of(json_values, st.fixed_dictionaries({"intent": json_values, "entities": json_values})),
            "meta": json_values,
            "created_at": json_values,
            "colour": json_values,
        },
    )
)
def test_any_json_object_is_a_record_or_a_problem(
    tmp_path_factory: pytest.TempPathFactory, line: dict[str, object]
) -> None:
    path = tmp_path_factory.mktemp("wild") / "wild.jsonl"
    path.write_text(json.dumps(line), encoding="utf-8")
    records, problems = read_jsonl(path)
    assert len(records) + len(problems) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{not json", "record: Invalid JSON: key must be a string at column 2"),
        ('{"command": "x"}', "response: Field required"),
        (SOUND_LINE.replace("SG-402 leaks", "  "), "command: the command is blank"),
        (SOUND_LINE.replace("leaks", "\\u0000"), "command: the command holds a NUL character"),
        (SOUND_LINE.replace("report_issue", "dance"), "unknown intent 'dance'"),
        (SOUND_LINE.replace("asset_id", "colour"), "unknown entity type 'colour'"),
        (SOUND_LINE.replace("report_issue", OUT_OF_SCOPE), "out_of_scope must have no entities"),
        (
            SOUND_LINE.replace('"SG-402"}', "402}"),
            "response.entities.asset_id: must be a text or a list of texts",
        ),
        (SOUND_LINE.replace('"SG-402"}', '" "}'), "response.entities: entity 'asset_id' has a blank value"),
        (SOUND_LINE.replace('"asset_id"', '""'), "response.entities: an entity type is blank"),
        (SOUND_LINE[:-1] + ', "colour": 1}', "colour: this field is not known"),
    ],
)
def test_a_problem_says_where_and_what(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "shift.jsonl"
    path.write_text(f"{SOUND_LINE}\n\n{line}\n")
    records, problems = read_jsonl(path, LABELS)
    assert len(records) == 1
    assert [(problem.file, problem.line) for problem in problems] == [("shift.jsonl", 3)]
    assert problems[0].reason.startswith(reason)


def test_a_byte_order_mark_and_windows_line_ends_are_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + SOUND_LINE.encode() + b"\r\n" + SOUND_LINE.encode() + b"\r\n")
    records, problems = read_jsonl(path, LABELS)
    assert len(records) == 2
    assert not problems


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_jsonl(tmp_path / "missing.jsonl")


def test_written_records_read_back(tmp_path: Path) -> None:
    record = Record.model_validate_json(SOUND_LINE).model_copy(update={"meta": {"shift": 2}})
    write_jsonl(tmp_path / "out.jsonl", [record])
    assert read_jsonl(tmp_path / "out.jsonl", LABELS) == ([record], [])
