from pathlib import Path

import pytest

from deployment.answers.rules import AnswerRules, TypeRules, default_rules, learn_rules, read_rules
from deployment.answers.spans import Form
from registry.errors import UsageError
from registry.records import MAX_VALUE, MAX_VALUES, LabelSet, Record, Response, answer_text


def labels_of(*types: str) -> LabelSet:
    return LabelSet(name="plant", intents={"check": ""}, entities=dict.fromkeys(types, ""))


def row(command: str, **entities: str | list[str]) -> Record:
    return Record(command=command, response=Response(intent="check", entities=entities))


def learnt(records: list[Record], **options: float) -> TypeRules:
    return learn_rules(records, labels_of("asset"), **options).types["asset"]


@pytest.mark.parametrize(
    ("form", "value"),
    [
        (Form.EXACT, "Cafe\u0301  Pump"),
        (Form.PLAIN, "Café Pump"),
        (Form.LOWER, "café pump"),
        (Form.UPPER, "CAFÉ PUMP"),
    ],
)
def test_the_form_of_a_type_is_the_one_in_which_its_values_stand_in_the_commands(form: Form, value: str) -> None:
    assert learnt([row("see Cafe\u0301  Pump\n7", asset=value)] * 3).form == form


def test_the_first_form_is_taken_where_several_fit() -> None:
    assert learnt([row("see pump 7", asset="pump"), row("see\npump", asset="pump")]).form == Form.EXACT
    assert learnt([row("see PUMP  7", asset="PUMP 7"), row("see VALVE", asset="VALVE")]).form == Form.PLAIN


@pytest.mark.parametrize(("strange", "form"), [(2, Form.EXACT), (3, None)])
def test_a_type_is_free_where_fewer_values_stand_in_their_commands(strange: int, form: Form | None) -> None:
    rows = [row("see pump 7", asset="pump")] * (100 - strange) + [row("see pump 7", asset="valve")] * strange
    assert learnt(rows).form == form
    assert learnt(rows).grounded == 1 - strange / 100
    assert learnt(rows, grounded_min=0.5).form == Form.EXACT


def test_a_part_of_a_word_does_not_stand_in_the_command() -> None:
    assert learnt([row("see WM20", asset="W")]).form is None


def test_only_free_types_are_free() -> None:
    rules = learn_rules([row("see pump 7", asset="pump", note="all is well")], labels_of("asset", "note", "person"))
    assert rules.free == ["note"]


def test_values_may_take_twice_of_what_was_seen() -> None:
    rows = [row("pump 7 and valve 12", asset=["pump 7", "valve 12"]), row("pump 7", asset="pump 7"), row("hello")]
    assert (learnt(rows).longest, learnt(rows).most) == (2 * len("valve 12"), 4)


def test_what_values_may_take_ends_where_a_record_ends() -> None:
    long = "x" * (MAX_VALUE - 1)
    found = learnt([row(f"{long} 7", asset=[long, *"7777777777777"])])
    assert (found.longest, found.most) == (MAX_VALUE, MAX_VALUES)


def test_a_type_without_a_value_is_grounded_and_has_all_room() -> None:
    rules = learn_rules([row("pump 7", asset="pump")], labels_of("asset", "person"))
    everything = TypeRules(form=Form.EXACT, grounded=1.0, longest=MAX_VALUE, most=MAX_VALUES)
    assert rules.types["person"] == everything
    assert default_rules(labels_of("asset")) == AnswerRules(types={"asset": everything})


def test_a_value_may_come_again_where_a_row_has_it_twice() -> None:
    labels = labels_of("asset", "part", "place")
    once = [row("P-1 and P-2 at the seal", asset=["P-1", "P-2"], part="seal", place="P-1")]
    rules = learn_rules([*once, row("seal, seal", part=["seal", "seal"])], labels)
    assert rules.may_repeat("part", "part")
    assert not rules.may_repeat("asset", "asset")
    assert rules.shared == (("asset", "place"),)
    assert rules.may_repeat("asset", "place")
    assert rules.may_repeat("place", "asset")
    assert not rules.may_repeat("asset", "part")


def test_the_same_value_in_two_rows_is_no_repetition() -> None:
    rules = learn_rules([row("see P-1", asset="P-1"), row("see P-1", place="P-1")], labels_of("asset", "place"))
    assert rules.shared == ()
    assert not rules.types["asset"].repeats


def test_right_answers_keep_to_the_rules_of_the_sample(
    sample: dict[str, list[Record]], sample_rules: AnswerRules, labels: LabelSet
) -> None:
    assert list(sample_rules.types) == list(labels.entities)
    assert sample_rules.free == []
    for record in sample["test"]:
        for name, value in record.response.entities.items():
            values, known = [value] if isinstance(value, str) else value, sample_rules.types[name]
            assert len(values) <= known.most, answer_text(record.response, labels)
            assert max(map(len, values)) <= known.longest


def test_rules_are_read_as_they_were_written(tmp_path: Path, plant: LabelSet, rules: AnswerRules) -> None:
    path = tmp_path / "answers.json"
    path.write_text(rules.model_dump_json(), encoding="utf-8")
    assert read_rules(path, plant) == rules


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "build the package again"),
        ("{}", "types"),
        ('{"types": {}, "more": 1}', "more"),
        ('{"types": {}}', "differ in asset; build"),
        ('{"types": {"asset": {"form": "exact", "grounded": 2, "longest": 9, "most": 1}}}', r"asset\.grounded"),
        ('{"types": {"asset": {"form": "exact", "grounded": 1, "longest": 201, "most": 1}}}', r"asset\.longest"),
        ('{"types": {"asset": {"form": "bold", "grounded": 1, "longest": 9, "most": 1}}}', r"asset\.form"),
        ('{"types": {"asset": {"form": null, "grounded": 1, "longest": 9, "most": 17}}}', r"asset\.most"),
    ],
)
def test_rules_that_are_none_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "answers.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=reason) as caught:
        read_rules(path, labels_of("asset"))
    assert str(path) in str(caught.value)


def test_rules_of_another_label_set_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    path.write_text(default_rules(labels_of("asset", "part")).model_dump_json(), encoding="utf-8")
    with pytest.raises(UsageError, match="differ in part; build the package again"):
        read_rules(path, labels_of("asset"))


def test_a_missing_file_of_rules_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"answers\.json cannot be read"):
        read_rules(tmp_path / "answers.json", labels_of("asset"))
