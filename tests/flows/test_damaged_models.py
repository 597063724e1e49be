"""No figure for a model that was not wholly loaded: one sentence, exit code 2, and no report."""

import json
import shutil
from pathlib import Path

import pytest
from command_line import Gemmill
from safetensors.numpy import load_file, save_file

from data_checks.sample import SAMPLE_DIR


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plant")
    lines = (SAMPLE_DIR / "test.jsonl").read_text().splitlines(keepends=True)
    (folder / "test.jsonl").write_text("".join(lines[:2]))
    shutil.copy(SAMPLE_DIR / "labels.toml", folder)
    return folder


@pytest.fixture
def broken(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """The tiny model without one of its tensors."""
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "broken"))
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


_COMMANDS = [
    ["evaluate", "{broken}", "--data", "{data}", "--json", "{out}"],
    ["compare", "{whole}", "{broken}", "--data", "{data}", "--json", "{out}"],
    ["convert", "{broken}", "{out}", "--type", "q8_0"],
    ["convert", "{broken}", "{out}", "--type", "auto", "--data", "{data}"],
    ["inspect", "{broken}", "--json", "{out}"],
    ["inspect", "{whole}", "--baseline", "{broken}", "--json", "{out}"],
    ["repair-norms", "{broken}", "{out}"],
    ["prune-vocab", "{broken}", "{out}", "--corpus", "{texts}", "--words", "0"],
]


@pytest.mark.parametrize("arguments", _COMMANDS, ids=" ".join)
def test_a_model_that_lacks_a_tensor_is_refused(
    arguments: list[str], gemmill: Gemmill, tiny_model_dir: Path, broken: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "texts.txt").write_text("Pump CP-17 leaks.\n")
    names = {"broken": broken, "whole": tiny_model_dir, "data": data, "out": tmp_path / "out"}
    names["texts"] = tmp_path / "texts.txt"
    ran = gemmill(*(argument.format(**names) for argument in arguments))
    ran.assert_refused(2, f"{broken} lacks model.layers.1.mlp.up_proj.weight; save or fetch it again.")
    assert not (tmp_path / "out").exists()


def test_half_an_adapter_is_not_evaluated(gemmill: Gemmill, tiny_model_dir: Path, data: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    adapter, report = tmp_path / "adapter", tmp_path / "report.json"
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_dir), config).save_pretrained(adapter)
    ran = gemmill("evaluate", adapter, "--data", data, "--json", report)
    assert ran.code == 0, ran
    assert json.loads(report.read_text())["metrics"]["rows"] == 2
    report.unlink()

    file = adapter / "adapter_model.safetensors"
    save_file({name: values for name, values in load_file(file).items() if "layers.1" not in name}, file)
    ran = gemmill("evaluate", adapter, "--data", data, "--json", report)
    ran.assert_refused(2, "lacks the LoRA matrices of 1 of the 2 modules that its target_modules name")
    assert not report.exists()
