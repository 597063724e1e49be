"""The commands that ask models the test split, on a tiny real one: what each reports."""

import json
from pathlib import Path

import pytest
from command_line import ROWS, Gemmill
from fake_ollama import FakeOllama, Model

from data_checks.contract import read_jsonl
from registry.artifacts import Artifact
from registry.files import file_sha256
from registry.records import LabelSet, Record, answer_text


@pytest.mark.parametrize("form", ["gguf", "tiny_model_dir"])
def test_evaluate_reports_every_record_as_json_and_as_a_page(
    form: str, request: pytest.FixtureRequest, gemmill: Gemmill, data: Path, tmp_path: Path
) -> None:
    model, file = request.getfixturevalue(form), data / "test.jsonl"
    report, page = tmp_path / "report.json", tmp_path / "report.html"
    ran = gemmill("evaluate", model, "--data", data, "--threads", 1, "--json", report, "--html", page)
    assert ran.code == 0, ran
    assert "Exact match" in ran.out
    found = json.loads(report.read_text())
    assert (found["model"], found["sha256"]) == (str(model), Artifact.of("model", model).sha256)
    assert (found["dataset"], found["dataset_sha256"]) == ("manufacturing-audit", file_sha256(file))
    assert found["metrics"]["rows"] == ROWS
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["command"] for row in found["rows"]] == [record["command"] for record in records]
    assert [row["expected"] for row in found["rows"]] == [record["response"] for record in records]
    assert all(row["answer"] for row in found["rows"])
    assert all(record["command"] in page.read_text() for record in records)


def test_evaluate_shows_free_and_grounded_answers_side_by_side(
    gemmill: Gemmill, model: Path, plant_records: list[Record], tmp_path: Path
) -> None:
    data, report, page = (tmp_path / name for name in ("test.jsonl", "report.json", "report.html"))
    data.write_text("".join(record.model_dump_json(exclude_none=True) + "\n" for record in plant_records))
    ways = ("--decoding", "free", "--decoding", "grounded")
    asked = ("evaluate", model, "--data", data, "--threads", 1, "--labels", model.with_name("labels.toml"))
    ran = gemmill(*asked, *ways, "--json", report, "--html", page)
    assert ran.code == 0, ran
    assert "grounded" in ran.out
    found = json.loads(report.read_text())
    assert [one["decoding"] for one in found["reports"]] == ["free", "grounded"]
    assert [one["metrics"]["rows"] for one in found["reports"]] == [len(plant_records)] * 2
    assert all(record.command in page.read_text() for record in plant_records)
    for wrong in (("--decoding", "free", "--decoding", "free"), (*ways, "--decoding", "schema")):
        gemmill(*asked, *wrong).assert_refused(2, "give one, or two that differ")


def test_compare_pairs_the_answers_of_two_models_row_by_row(
    gemmill: Gemmill, data: Path, gguf: Path, labels: LabelSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, _ = read_jsonl(data / "test.jsonl", labels)
    known = {record.command: answer_text(record.response, labels) for record in records[1:]}
    report, page = tmp_path / "comparison.json", tmp_path / "comparison.html"
    with FakeOllama(lambda prompt, options: known.get(prompt, "?")) as ollama:
        ollama.models["plant:latest"] = Model(
            digest="sha256:0", template="{{ .Prompt }}", system="", parameters={}, license=""
        )
        monkeypatch.setenv("OLLAMA_HOST", ollama.address)
        ran = gemmill("compare", "ollama:plant", gguf, "--data", data, "--threads", 1, "--json", report, "--html", page)
    assert ran.code == 0, ran
    found = json.loads(report.read_text())
    assert (found["a"], found["b"], found["rows"]) == ("ollama:plant", str(gguf), ROWS)
    exact = next(line for line in found["metrics"] if line["metric"] == "exact_match")
    assert (exact["a"], exact["b"], exact["difference"]) == (0.75, 0.0, -0.75)
    assert -1 <= exact["low"] < -0.75 < exact["high"] <= 0
    assert found["mcnemar"] == {"only_a": 3, "only_b": 0, "p": 0.25}
    assert [(flip["number"], flip["better"]) for flip in found["flips"]] == [(2, "a"), (3, "a"), (4, "a")]
    assert records[1].command in page.read_text()


def test_instructions_are_tried_on_every_model(gemmill: Gemmill, data: Path, gguf: Path, model: Path, tmp_path: Path):
    report, written = tmp_path / "report.json", tmp_path / "instructions.toml"
    ran = gemmill("prompts", gguf, "--data", data, "--threads", 1, "--max-new-tokens", 8, "--json", report)
    assert ran.code == 0, ran
    rows = json.loads(report.read_text())
    assert [row["instruction"] for row in rows] == ["none", "task", "labels", "out of scope", "descriptions"]
    assert "report_issue" in rows[2]["text"] and "out_of_scope" in rows[3]["text"]
    assert all(row["rows"] == ROWS and row["model"] == str(gguf) for row in rows)
    written.write_text('short = "Answer."\n')
    ran = gemmill("prompts", gguf, model, "--data", data, "--instructions", written, "--max-new-tokens", 8)
    assert ran.code == 0 and ran.out.count("short") == 2, ran
    for text, said in (("", "holds no instruction"), ("a = 3", "holds no text for 'a'"), ("a =", "is not TOML")):
        written.write_text(text)
        gemmill("prompts", gguf, "--data", data, "--instructions", written).assert_refused(2, said)
    gemmill("prompts", "ollama:m", "--data", data).assert_refused(2, "is a server, which has its own prompt")
