"""The commands that look at a model or write another one, on a tiny real one: what each writes."""

import json
import shutil
from pathlib import Path

import numpy as np
from command_line import ROWS, Gemmill
from gguf import GGMLQuantizationType, quants
from safetensors.numpy import load_file, save_file

from registry.files import file_sha256

_NORM, _CHANNEL, _GROWN = "model.layers.1.post_feedforward_layernorm.weight", 5, 1656.0


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


def test_a_server_shows_no_weights(gemmill: Gemmill) -> None:
    gemmill("inspect", "http://bob:secret@127.0.0.1:1").assert_refused(2, "is a server, which shows no weights")
    assert "secret" not in gemmill("inspect", "http://bob:secret@127.0.0.1:1").err


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
    assert found[-1]["metrics"]["rows"] == ROWS
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
