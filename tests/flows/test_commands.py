"""The command line on a tiny real model: what each command writes, and how it ends.

Most commands run in this process, where torch and mlflow are imported once; flows run in processes of their own, as
a Prefect flow logs otherwise.
"""

import json
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import typer
from command_line import Gemmill, gemmill_process
from fake_ollama import FakeOllama, Model
from gguf import GGMLQuantizationType, quants
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness
from safetensors.numpy import load_file, save_file

from data_checks.contract import LabelSet, answer_text, read_jsonl
from data_checks.sample import SAMPLE_DIR
from flows import cli
from flows.settings import PROFILES_FOLDER
from registry.artifacts import Artifact, file_sha256
from tasks.gguf_export.writer import export_gguf
from tasks.quant.types import QuantType

_ROWS = 4  # of the sample's test split; the third is out of scope
_NOBODY = "127.0.0.1:9"  # the discard port, where no server listens
_NORM, _CHANNEL, _GROWN = "model.layers.1.post_feedforward_layernorm.weight", 5, 1656.0
_COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
# What users and CI rely on, whatever the code is called.
_PROMISED = {
    "ingest": ("--summary",),
    "retrain": ("--profile", "--data", "--home", "--summary"),
    "inspect": ("--baseline", "--json", "--html"),
    "convert": ("--type", "--plan", "--data", "--budget", "--json", "--html"),
    "prune-vocab": ("--corpus", "--words", "--base", "--json"),
    "evaluate": ("--data", "--json", "--html"),
    "compare": ("--data",),
    "deploy": ("--alias", "--device"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few records of the shipped sample as a test split, beside its label set."""
    folder = tmp_path_factory.mktemp("plant")
    lines = (SAMPLE_DIR / "test.jsonl").read_text().splitlines(keepends=True)
    (folder / "test.jsonl").write_text("".join(lines[:_ROWS]))
    shutil.copy(SAMPLE_DIR / "labels.toml", folder)
    return folder


@pytest.fixture(scope="module")
def bad_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("bad") / "bad.jsonl"
    file.write_text('{"command": "SG-1 leaks", "response": {"intent": "report_issue", "entities": {}}}\nnot json\n')
    return file


@pytest.fixture(scope="module")
def gguf(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as Q8_0."""
    return export_gguf(tiny_model_dir, tmp_path_factory.mktemp("gguf") / "tiny.gguf", weights=QuantType.Q8_0).path


@pytest.fixture(scope="module")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which nothing was registered."""
    return tmp_path_factory.mktemp("empty")


def test_inspect_writes_every_norm_and_names_the_one_that_outgrew_the_baseline(
    gemmill: Gemmill, tiny_model_dir: Path, tmp_path: Path
) -> None:
    grown = tmp_path / "grown"
    shutil.copytree(tiny_model_dir, grown)
    weights = load_file(grown / "model.safetensors")
    weights[_NORM][_CHANNEL] = _GROWN
    save_file(weights, grown / "model.safetensors", metadata={"format": "pt"})
    report, page = tmp_path / "norms.json", tmp_path / "norms.html"
    ran = gemmill("inspect", grown, "--baseline", tiny_model_dir, "--json", report, "--html", page)
    assert ran.code == 0, ran
    assert f"{_NORM.removesuffix('.weight')} is new: gain 1657 in channel {_CHANNEL}" in " ".join(ran.out.split())
    tensors = {tensor["name"]: tensor for tensor in json.loads(report.read_text())["tensors"]}
    assert {name for name, tensor in tensors.items() if tensor["gains"]} == {name for name in weights if "norm" in name}
    gains = tensors[_NORM]["gains"]
    assert (gains["max_abs"], gains["channel"], gains["outliers"]) == (1 + _GROWN, _CHANNEL, 1)
    assert _NORM.removesuffix(".weight") in page.read_text()


def test_inspect_reads_the_same_gains_from_a_folder_and_from_its_gguf(
    gemmill: Gemmill, tiny_model_dir: Path, gguf: Path, tmp_path: Path
) -> None:
    found = []
    for model in (tiny_model_dir, gguf):
        assert gemmill("inspect", model, "--json", tmp_path / "norms.json").code == 0
        tensors = json.loads((tmp_path / "norms.json").read_text())["tensors"]
        found.append({tensor["name"]: tensor["gains"]["values"] for tensor in tensors if tensor["gains"]})
    assert found[0] == found[1]


def test_convert_plans_the_very_file_that_it_then_writes(
    gemmill: Gemmill, tiny_model_dir: Path, tmp_path: Path
) -> None:
    out, plan, report = tmp_path / "tiny.gguf", tmp_path / "plan.json", tmp_path / "report.json"
    planned = gemmill("convert", tiny_model_dir, out, "--type", "q8_0", "--plan", "--json", plan)
    assert planned.code == 0, planned
    assert "token_embd.weight" in planned.out
    assert not out.exists()
    written = gemmill("convert", tiny_model_dir, out, "--type", "q8_0", "--json", report)
    assert written.code == 0, written
    tensors = json.loads(plan.read_text())["tensors"]
    types = [tensor["type"] for tensor in tensors]
    found = json.loads(report.read_text())
    assert found.pop("verification")["passed"]
    assert found == {
        "path": str(out),
        "sha256": file_sha256(out),
        "bytes": json.loads(plan.read_text())["bytes"],
        "tensors": len(tensors),
        "types": {type_: types.count(type_) for type_ in ("q8_0", "f32")},
    }
    assert out.stat().st_size == json.loads(plan.read_text())["bytes"]


def test_convert_puts_a_gguf_file_in_the_order_that_ollama_keeps(gemmill: Gemmill, gguf: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out.gguf", tmp_path / "report.json"
    ran = gemmill("convert", gguf, out, "--json", report)
    assert ran.code == 0, ran
    assert file_sha256(out) == file_sha256(gguf)  # it lies in that order already
    assert json.loads(report.read_text())["sha256"] == file_sha256(gguf) in "".join(ran.out.split())


def test_convert_writes_an_adapter_and_wants_its_base(gemmill: Gemmill, tiny_model_dir: Path, tmp_path: Path) -> None:
    adapter, out = tmp_path / "adapter", tmp_path / "adapter.gguf"
    adapter.mkdir()
    config = {"peft_type": "LORA", "lora_alpha": 8, "base_model_name_or_path": "google/gemma-3-270m"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    module = "base_model.model.model.layers.0.mlp.up_proj"
    matrices = {f"{module}.lora_A.weight": np.ones((4, 64)), f"{module}.lora_B.weight": np.ones((128, 4))}
    save_file(
        {name: matrix.astype(np.float32) for name, matrix in matrices.items()}, adapter / "adapter_model.safetensors"
    )
    gemmill("convert", adapter, out, "--type", "auto").assert_refused(2, "--type auto is for whole models")
    without = gemmill("convert", adapter, out, "--type", "f16")
    without.assert_refused(2, "which is no Hugging Face folder here; name it with --base")
    named = ["--type", "f16", "--base", tiny_model_dir]
    gemmill("convert", adapter, out, *named, "--embedding", "f16").assert_refused(2, "--embedding is for whole models")
    gemmill("convert", tiny_model_dir, out, *named).assert_refused(2, "--base is for adapters")
    planned = gemmill("convert", adapter, out, *named, "--plan")
    assert "blk.0.ffn_up.weight.lora_a" in planned.out and not out.exists()
    written = gemmill("convert", adapter, out, *named)
    assert written.code == 0 and "tensors: 2 f16" in written.out


def test_convert_auto_keeps_the_smallest_file_that_answers_as_the_largest(
    gemmill: Gemmill, tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    out, report, page = tmp_path / "tiny.gguf", tmp_path / "types.json", tmp_path / "types.html"
    auto = ["convert", tiny_model_dir, out, "--type", "auto"]
    planned = gemmill(*auto, "--plan", "--budget", "0.1MB")
    assert planned.code == 0 and "over budget" in planned.out and not out.exists()
    blocked = gemmill(*auto, "--data", data, "--profile", "tiny", "--threads", 1)
    blocked.assert_refused(3, "fails by json_validity: 0 is below the floor of 0.995")
    assert not out.exists() and "failed" in blocked.out
    ran = gemmill(*auto, "--data", data, "--threads", 1, "--json", report, "--html", page)
    assert ran.code == 0, ran
    found = json.loads(report.read_text())["types"]  # an untrained model is wrong in any type
    assert [types["outcome"] for types in found] == ["chosen", *["not tried"] * 7, "reference"]
    assert (found[0]["weights"], found[0]["embedding"], found[0]["bytes"]) == ("q4_0", "q4_0", out.stat().st_size)
    assert found[-1]["metrics"]["rows"] == _ROWS
    assert "Size against accuracy" in page.read_text()


def test_convert_auto_wants_both_kinds_of_commands_for_a_profile_s_gates(
    gemmill: Gemmill, tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copy(data / "labels.toml", tmp_path)
    lines = (data / "test.jsonl").read_text().splitlines(keepends=True)
    auto = ["convert", tiny_model_dir, tmp_path / "out.gguf", "--type", "auto", "--profile", "tiny"]
    for kind in ("out-of-scope", "audit"):
        kept = [line for line in lines if ("out_of_scope" in line) == (kind == "audit")]
        (tmp_path / "some.jsonl").write_text("".join(kept))
        ran = gemmill(*auto, "--data", tmp_path / "some.jsonl")
        ran.assert_refused(2, f"has no {kind} command, so the gates of tiny cannot be judged")


def test_import_brings_back_the_weights_that_the_file_holds(
    gemmill: Gemmill, tiny_model_dir: Path, gguf: Path, tmp_path: Path
) -> None:
    assert gemmill("import", gguf, tmp_path / "back").code == 0
    trained, back = (load_file(folder / "model.safetensors") for folder in (tiny_model_dir, tmp_path / "back"))
    assert back.keys() == trained.keys()
    q8_0 = GGMLQuantizationType.Q8_0
    for name, weight in trained.items():
        stored = weight if weight.ndim == 1 else quants.dequantize(quants.quantize(weight, q8_0), q8_0)
        np.testing.assert_array_equal(back[name], stored, err_msg=name)


def test_prune_vocab_drops_tokens_and_takes_them_back_from_the_base(
    gemmill: Gemmill, tiny_model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "old.txt").write_text("Pump CP-17 leaks.\n")
    (tmp_path / "new.txt").write_text("Surface grinder SG-402 has a hydraulic leak.\n")
    out, grown, report = tmp_path / "out", tmp_path / "grown", tmp_path / "report.json"
    ran = gemmill("prune-vocab", tiny_model_dir, out, "--corpus", tmp_path / "old.txt", "--words", 0)
    assert ran.code == 0, ran
    assert "100.00% of the corpus in its own tokens: 1 of 1 texts as before" in ran.out
    arguments = ["--corpus", tmp_path / "new.txt", "--words", 0, "--base", tiny_model_dir, "--json", report]
    ran = gemmill("prune-vocab", out, grown, *arguments)
    assert ran.code == 0, ran
    found = json.loads(report.read_text())
    assert found["missing"] and f"{len(found['missing'])} tokens of the corpus came back" in ran.out
    rows = [load_file(d / "model.safetensors")["model.embed_tokens.weight"] for d in (tiny_model_dir, grown, out)]
    assert len(rows[0]) > len(rows[1]) == found["tokens"] > len(rows[2]) == found["tokens_before"]


def test_prune_vocab_keeps_the_turns_that_the_model_has(gemmill: Gemmill, tiny_model_dir: Path, tmp_path: Path) -> None:
    chatml, out = tmp_path / "chatml", tmp_path / "out"
    shutil.copytree(tiny_model_dir, chatml)
    for file in chatml.glob("*.json"):
        text = file.read_text().replace("<start_of_turn>", "<|im_start|>").replace("<end_of_turn>", "<|im_end|>")
        file.write_text(text)
    (tmp_path / "old.txt").write_text("Pump CP-17 leaks.\n")
    ran = gemmill("prune-vocab", chatml, out, "--corpus", tmp_path / "old.txt", "--words", 0)
    assert ran.code == 0, ran
    assert {"<|im_start|>", "<|im_end|>"} <= json.loads((out / "tokenizer.json").read_text())["model"]["vocab"].keys()


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
    assert found["metrics"]["rows"] == _ROWS
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["command"] for row in found["rows"]] == [record["command"] for record in records]
    assert [row["expected"] for row in found["rows"]] == [record["response"] for record in records]
    assert all(row["answer"] for row in found["rows"])
    assert all(record["command"] in page.read_text() for record in records)


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
    assert (found["a"], found["b"], found["rows"]) == ("ollama:plant", str(gguf), _ROWS)
    exact = next(line for line in found["metrics"] if line["metric"] == "exact_match")
    assert (exact["a"], exact["b"], exact["difference"]) == (0.75, 0.0, -0.75)
    assert -1 <= exact["low"] < -0.75 < exact["high"] <= 0
    assert found["mcnemar"] == {"only_a": 3, "only_b": 0, "p": 0.25}
    assert [(flip["number"], flip["better"]) for flip in found["flips"]] == [(2, "a"), (3, "a"), (4, "a")]
    assert records[1].command in page.read_text()


@pytest.fixture(scope="module")
def prefect_url() -> Iterator[str]:
    """A Prefect server for the flows of other processes, which would each start one."""
    with prefect_test_harness(server_startup_timeout=240):
        yield str(PREFECT_API_URL.value())


def test_ingest_stores_the_records_that_make_retraining_due(data: Path, prefect_url: str, tmp_path: Path) -> None:
    home, ingested, due, profile = (tmp_path / name for name in ("home", "ingested.json", "due.json", "profile.toml"))
    shipped = (PROFILES_FOLDER / "tiny.toml").read_text().splitlines()
    lines = [f"minimum_rows = {_ROWS}" if line.startswith("minimum_rows") else line for line in shipped]
    profile.write_text("\n".join(lines))
    ran = gemmill_process(home, "ingest", data, "--summary", ingested, PREFECT_API_URL=prefect_url)
    assert ran.code == 0, ran
    assert json.loads(ingested.read_text()) == {
        "dataset": "manufacturing-audit",
        "source": str(data),
        "read": _ROWS,
        "new": _ROWS,
        "known": 0,
        "joined": 0,
        "conflicts": [],
        "rows": {"train": 0, "validation": 0, "test": _ROWS},
    }
    ran = gemmill_process(home, "due", "--profile", profile, "--summary", due)
    assert ran.code == 0, ran
    assert ran.out.startswith("Retraining on manufacturing-audit is due: 4 new rows")
    counts = {"new_rows": _ROWS, "minimum_rows": _ROWS}
    assert json.loads(due.read_text()) == {"due": True, **counts, "since_snapshot": None}


def test_the_version_is_told(tmp_path: Path) -> None:
    ran = gemmill_process(tmp_path, "--version")
    assert (ran.code, ran.out.strip()) == (0, f"gemmill {metadata.version('gemmill')}")


def test_ingest_stores_nothing_of_what_it_refuses(bad_data: Path, prefect_url: str, tmp_path: Path) -> None:
    bad = gemmill_process(tmp_path, "ingest", bad_data, PREFECT_API_URL=prefect_url)
    bad.assert_refused(4, "first: bad.jsonl line 2")
    missing = gemmill_process(tmp_path, "ingest", tmp_path / "none", PREFECT_API_URL=prefect_url)
    missing.assert_refused(2, "none does not exist")
    gemmill_process(tmp_path, "due").assert_refused(2, "the audit store is empty")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["inspect", "{tmp}/none"], "is no model"),
        (["inspect", "{data}/test.jsonl"], "is not a sound GGUF file"),
        (["inspect", "{tmp}/none", "--json", "{data}"], "is a folder where a file is to be written"),
        (["repair-norms", "{tmp}/none", "{tmp}/out"], "is no model"),
        (["repair-norms", "{tmp}/none", "{tmp}/out", "--json", "{data}"], "is a folder where a file is to be written"),
        (["convert", "{model}", "{tmp}/out", "--type", "q9"], "'q9' is no type that is written; take one of f32, f16"),
        (["convert", "{tmp}/none", "{tmp}/out", "--type", "q8_0"], "none/config.json cannot be read"),
        (["convert", "{tmp}/none.gguf", "{tmp}/out"], "none.gguf cannot be read"),
        (["convert", "{gguf}", "{tmp}/out", "--type", "q8_0"], "keeps its types; give no option but --json"),
        (["convert", "{gguf}", "{tmp}/out", "--no-verify"], "keeps its types; give no option but --json"),
        (["convert", "{gguf}", "{tmp}/out", "--budget", ""], "keeps its types; give no option but --json"),
        (["convert", "{model}", "{tmp}/out"], "Missing option '--type'"),
        (["convert", "{model}", "{tmp}/out", "--type", "auto"], "name labelled records with --data"),
        (["convert", "{model}", "{tmp}/out", "--type", "auto", "--base", "x"], "--type auto is for whole models"),
        (["convert", "{model}", "{tmp}/o", "--type", "auto", "--plan", "--budget", "7TB"], "'7TB' is no size; write"),
        (["convert", "{model}", "{tmp}/o", "--type", "auto", "--plan", "--budget", ""], "'' is no size; write"),
        (["convert", "{model}", "{tmp}/out", "--type", "q8_0", "--budget", ""], "are for --type auto; omit them"),
        (["convert", "{model}", "{tmp}/out", "--type", "q8_0", "--data", "{data}"], "are for --type auto; omit them"),
        (["prune-vocab", "{model}", "{data}", "--corpus", "{data}"], "exists; name another folder or delete it"),
        (["prune-vocab", "{model}", "{tmp}/out", "--corpus", "{data}"], "rows of the test split only"),
        (["prune-vocab", "{tmp}/none", "{tmp}/out", "--corpus", str(SAMPLE_DIR)], "none is no Hugging Face folder"),
        (
            ["prune-vocab", "{gguf}", "{tmp}/out", "--corpus", str(SAMPLE_DIR)],
            "is no Hugging Face folder of a whole model",
        ),
        (["import", "{tmp}/none.gguf", "{tmp}/out"], "none.gguf cannot be read"),
        (["import", "{data}/test.jsonl", "{tmp}/out"], "is not a sound GGUF file"),
        (["import", "{gguf}", "{data}"], "is not an empty folder"),
        (["evaluate", "{gguf}", "--data", "{tmp}/none.jsonl"], "none.jsonl cannot be read"),
        (["evaluate", "{gguf}", "--data", "{model}"], "test.jsonl cannot be read"),
        (["evaluate", "{gguf}", "--data", "{data}", "--labels", "{tmp}/none.toml"], "none.toml cannot be read"),
        (["evaluate", "{tmp}/none.gguf", "--data", "{data}"], "none.gguf is not a file"),
        (["evaluate", "{tmp}/none", "--data", "{data}"], "is neither a folder nor a .gguf file"),
        (["evaluate", "models:/plant", "--data", "{data}"], "write models:/NAME@ALIAS"),
        (["evaluate", "models:/plant@champion", "--data", "{data}"], "no version with the alias 'champion'"),
        (["compare", "{tmp}/none", "{gguf}", "--data", "{data}"], "is neither a folder nor a .gguf file"),
        (["compare", "{gguf}", "{tmp}/none", "--data", "{data}"], "is neither a folder nor a .gguf file"),
        (["promote", "1"], "has no version 1; gemmill retrain registers one"),
        (["rollback"], "has no previous champion to roll back to"),
        (["due"], "the audit store is empty; ingest audit data first"),
    ],
)
def test_bad_usage_exits_with_2(
    arguments: list[str], reason: str, gemmill: Gemmill, data: Path, gguf: Path, tiny_model_dir: Path, empty_home: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("GEMMILL_HOME", str(empty_home))
    ran = gemmill(
        *(argument.format(data=data, gguf=gguf, model=tiny_model_dir, tmp=tmp_path) for argument in arguments)
    )
    ran.assert_refused(2, reason)
    assert "\n" not in ran.err.strip()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["inspect"], "Missing argument"),
        (["evaluate", "model"], "Missing option '--data'"),
        (["prune-vocab", "model", "out"], "Missing option '--corpus'"),
        (["evaluate", "model", "--data", "x", "--threads", "-1"], "Invalid value for '--threads'"),
        (["promote", "newest"], "Invalid value"),
        (["rollback", "--force"], "No such option"),
    ],
)
def test_a_command_that_cannot_be_parsed_exits_with_2(arguments: list[str], reason: str, gemmill: Gemmill) -> None:
    ran = gemmill(*arguments)
    assert ran.code == 2, ran
    assert reason in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("arguments", [["evaluate", "{gguf}"], ["compare", "{gguf}", "{gguf}"]])
def test_a_bad_data_file_exits_with_4(arguments: list[str], gemmill: Gemmill, gguf: Path, bad_data: Path) -> None:
    ran = gemmill(*(argument.format(gguf=gguf) for argument in arguments), "--data", bad_data)
    ran.assert_refused(4, "1 line of bad.jsonl refused")
    assert "Invalid JSON" in ran.err


def test_an_intent_outside_the_label_set_exits_with_4(gemmill: Gemmill, gguf: Path, data: Path, tmp_path: Path) -> None:
    strange = tmp_path / "strange.jsonl"
    strange.write_text('{"command": "SG-1 dances", "response": {"intent": "dance", "entities": {}}}\n')
    ran = gemmill("evaluate", gguf, "--data", strange, "--labels", data / "labels.toml")
    ran.assert_refused(4, "unknown intent 'dance'")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["evaluate", "ollama:plant", "--data", "{data}"], f"Ollama does not answer at {_NOBODY}"),
        (["evaluate", f"http://{_NOBODY}", "--data", "{data}"], f"http://{_NOBODY}/answer does not answer"),
        (["compare", "ollama:plant", "{gguf}", "--data", "{data}"], f"Ollama does not answer at {_NOBODY}"),
        (["inspect", "plant-7/gemma"], "the hub is out of reach"),
        (["promote", "1"], f"No MLflow server answers at http://{_NOBODY}"),
    ],
)
def test_a_service_out_of_reach_exits_with_5(
    arguments: list[str], reason: str, gemmill: Gemmill, data: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", _NOBODY)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{_NOBODY}")
    ran = gemmill(*(argument.format(data=data, gguf=gguf) for argument in arguments))
    ran.assert_refused(5, reason)
    assert "\n" not in ran.err.strip()


def test_the_exit_code_reaches_the_shell(bad_data: Path, gguf: Path, tmp_path: Path) -> None:
    gemmill_process(tmp_path, "evaluate", gguf, "--data", bad_data).assert_refused(4, "bad.jsonl line 2")


@pytest.mark.parametrize("command", sorted(_COMMANDS))
def test_help_names_every_option_of_a_command(command: str, gemmill: Gemmill) -> None:
    ran = gemmill(command, "--help")
    assert ran.code == 0, ran
    options = [name for option in _COMMANDS[command].params for name in option.opts if name.startswith("-")]
    assert not [name for name in (*options, *_PROMISED.get(command, ())) if name not in ran.out.split()]


def test_help_names_every_command(gemmill: Gemmill) -> None:
    ran = gemmill("--help")
    assert ran.code == 0, ran
    assert _PROMISED.keys() <= set(_COMMANDS)
    assert not [command for command in _COMMANDS if command not in ran.out.split()]
