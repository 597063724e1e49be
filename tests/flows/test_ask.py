"""``gemmill ask``: a command, standard input, files."""

import io
import json
import sys
from pathlib import Path

import pytest
from command_line import Gemmill

from deployment.answers.answer import Answer
from registry.records import LabelSet, Record, answer_text, same_answer


def test_one_command_is_answered_as_a_device_does(
    gemmill: Gemmill, model: Path, plant_records: list[Record], plant_labels: LabelSet
):
    record = plant_records[0]
    ran = gemmill("ask", model, record.command, "--threads", 1)
    assert ran.code == 0, ran.err
    assert same_answer(ran.out, answer_text(record.response, plant_labels))
    ran = gemmill("ask", model, record.command, "--threads", 1, "--json")
    assert Answer.model_validate_json(ran.out).intent == record.response.intent
    ran = gemmill("ask", model, record.command, "--threads", 1, "--stream")
    for name, value in record.response.listed():
        assert f"{name}: {value}" in ran.out


def test_an_answer_says_how_sure_it_is_and_whom_to_ask(gemmill: Gemmill, doubting: Path, plant_records: list[Record]):
    ran = gemmill("ask", doubting, plant_records[0].command, "--threads", 1, "--stream")
    assert ran.out.count("%") == 3, ran.out  # the intent and two values
    assert not ran.err
    strange = "x1 zz prüfe SG oil 99 tomorrow pumps leak"
    ran = gemmill("ask", doubting, strange, "--threads", 1)
    assert "Ask a person: this answer is " in ran.err
    assert json.loads(ran.out)["intent"]
    ran = gemmill("ask", doubting, strange, "--threads", 1, "--no-confidence", "--json")
    assert Answer.model_validate_json(ran.out).confidence is None


def test_each_line_of_standard_input_is_a_command(
    gemmill: Gemmill, model: Path, plant_records: list[Record], monkeypatch: pytest.MonkeyPatch
):
    commands = [record.command for record in plant_records[:3]]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n".join(commands)))
    ran = gemmill("ask", model, "--threads", 1)
    assert [json.loads(line)["intent"] for line in ran.out.splitlines()] == [
        record.response.intent for record in plant_records[:3]
    ]


def test_a_file_is_answered_and_gone_on_with_where_it_broke_off(
    gemmill: Gemmill, model: Path, plant_records: list[Record], tmp_path: Path
):
    commands = [record.command for record in plant_records]
    data, out = tmp_path / "commands.txt", tmp_path / "answers.jsonl"
    data.write_text("\n".join(commands) + "\n")
    arguments = ("ask", model, "--data", data, "--out", out, "--threads", 1)
    assert gemmill(*arguments).code == 0
    lines = out.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["command"] for line in lines] == commands
    out.write_bytes(lines[0] + lines[1][:30])
    assert gemmill(*arguments).code == 0
    again = out.read_bytes().splitlines(keepends=True)
    assert again[0] == lines[0]
    assert [json.loads(line)["entities"] for line in again] == [json.loads(line)["entities"] for line in lines]
    data.write_text("another command\n")
    gemmill(*arguments).assert_refused(2, "other commands")
    assert out.read_bytes().splitlines(keepends=True) == again


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--data", "x.txt"], "go together"),
        (["--out", "x.jsonl"], "go together"),
        (["hello", "--data", "x.txt", "--out", "y"], "leave out the command"),
        (["  "], "blank"),
        (["--data", "missing.txt", "--out", "y"], "cannot be read"),
    ],
)
def test_options_that_do_not_go_together_are_refused(gemmill: Gemmill, model: Path, arguments: list[str], reason: str):
    gemmill("ask", model, *arguments).assert_refused(2, reason)


def test_a_line_that_is_no_command_is_named(gemmill: Gemmill, model: Path, tmp_path: Path):
    data = tmp_path / "commands.jsonl"
    data.write_text('{"command": "SG-1 leaks"}\n{"text": "no"}\n')
    gemmill("ask", model, "--data", data, "--out", tmp_path / "out").assert_refused(2, "line 2")
