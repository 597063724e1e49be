import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import quants
from gguf.constants import GGMLQuantizationType
from gguf_samples import CONFIG, tiny_weights, write_json
from safetensors.numpy import save_file

from deployment.packages import modelfile
from deployment.prompts.prompt import Prompt, ollama_template
from registry.errors import UsageError
from tasks.gguf.container import GgufFile
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType
from tasks.verification.checks import greedy_check
from tasks.verification.rounding import error_bound
from tasks.verification.verify import VerifyReport, verify_gguf

PROMPTS = [
    "Audit pump P-101 for a leak",
    "Inspect line 7 tomorrow, then the gear box of the conveyor belt again",
]


def _failed(report: VerifyReport) -> set[str]:
    assert report.passed == (not [check for check in report.checks if not check.passed])
    return {check.name for check in report.checks if not check.passed}


@pytest.mark.parametrize("weights", [QuantType.F32, QuantType.BF16, QuantType.Q8_0, QuantType.Q4_0])
def test_an_export_passes(tiny_gemma: Path, tmp_path: Path, weights: QuantType) -> None:
    out = export_gguf(tiny_gemma, tmp_path / "out.gguf", weights=weights).path
    report = verify_gguf(out, tiny_gemma, PROMPTS)
    assert _failed(report) == set(), report
    assert {check.name: check.value for check in report.checks}["BOS tokens in a prompt"] == 1


def test_both_rope_frequencies_reach_llama_cpp(tiny_gemma: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_gemma, tmp_path / "model"))
    rope = {
        "full_attention": {"rope_type": "default", "rope_theta": 5_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    }
    write_json(folder / "config.json", {**CONFIG, "rope_parameters": rope})
    out = export_gguf(folder, tmp_path / "out.gguf", weights=QuantType.F32).path
    assert _failed(verify_gguf(out, folder, PROMPTS)) == set()
    assert "KL to the float32 model" in _failed(verify_gguf(out, tiny_gemma, PROMPTS))


def test_a_changed_weight_is_found(tiny_gemma: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_gemma, tmp_path / "model"))
    weights = tiny_weights()
    weights["model.layers.2.mlp.up_proj.weight"][7, 9] += 0.05
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    out = export_gguf(folder, tmp_path / "out.gguf", weights=QuantType.Q8_0).path
    report = verify_gguf(out, tiny_gemma, [])
    assert _failed(report) == {"weight error / allowed error"}
    assert any(check.detail == "blk.2.ffn_up.weight" for check in report.checks)


def test_a_norm_without_its_one_is_found(tiny_gemma: Path, tmp_path: Path) -> None:
    out = export_gguf(tiny_gemma, tmp_path / "out.gguf", weights=QuantType.F32).path
    with GgufFile(out) as file:
        norm = file.tensors["blk.0.attn_norm.weight"]
    content = bytearray(out.read_bytes())
    values = np.frombuffer(content, dtype="<f4", count=norm.row_length, offset=norm.offset) - np.float32(1)
    content[norm.offset : norm.offset + norm.nbytes] = values.tobytes()
    out.write_bytes(content)
    failed = _failed(verify_gguf(out, tiny_gemma, PROMPTS))
    assert {"weight error / allowed error", "KL to the float32 model"} <= failed
    assert "KL to the file's weights in PyTorch" not in failed


def test_another_tokenizer_is_found(tiny_gemma: Path, tmp_path: Path) -> None:
    out = export_gguf(tiny_gemma, tmp_path / "out.gguf", weights=QuantType.F32).path
    content = out.read_bytes()
    with GgufFile(out) as file:
        used = next(token for token in file.metadata["tokenizer.ggml.tokens"] if token in ("pu", "▁p"))
    stored = len(used.encode()).to_bytes(8, "little") + used.encode()
    assert content.count(stored) == 1
    out.write_bytes(content.replace(stored, stored[:-1] + b"~"))
    failed = _failed(verify_gguf(out, tiny_gemma, PROMPTS))
    assert "token parity: texts with other tokens" in failed


def test_a_second_bos_in_the_template_is_found(tiny_gemma: Path, tmp_path: Path) -> None:
    template = "{{ bos_token }}{{ bos_token }}{{ messages[0]['content'] }}"
    out = export_gguf(tiny_gemma, tmp_path / "out.gguf", weights=QuantType.F32, chat_template=template).path
    failed = _failed(verify_gguf(out, tiny_gemma, PROMPTS))
    assert {name for name in failed if "parity" in name} == {"llama.cpp chat template parity: texts with other tokens"}


def test_a_modelfile_that_lets_a_typed_control_token_through_is_found(
    tiny_gemma: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(prompt: Prompt) -> str:
        return ollama_template(prompt).replace('{{ template "text" $command }}', "{{ $command }}")

    monkeypatch.setattr(modelfile, "ollama_template", careless)
    out = export_gguf(tiny_gemma, tmp_path / "out.gguf", weights=QuantType.F32).path
    report = verify_gguf(out, tiny_gemma, [])
    assert _failed(report) == {"Ollama chat template parity: texts with other tokens"}
    assert not report.prompt_parity


def test_a_file_that_llama_cpp_refuses_is_a_usage_error(tiny_gemma: Path, tmp_path: Path) -> None:
    out = export_gguf(tiny_gemma, tmp_path / "out.gguf", weights=QuantType.F32).path
    content = out.read_bytes()
    out.write_bytes(content.replace(b"gemma3.block_count", b"gemma3.block_kount"))
    with pytest.raises(UsageError, match=r"block_count"):
        verify_gguf(out, tiny_gemma, [])


@pytest.mark.parametrize("type_", [GGMLQuantizationType[item.name] for item in QuantType])
def test_the_error_bound_holds_and_is_tight(type_: GGMLQuantizationType) -> None:
    random = np.random.default_rng(1)
    scale = np.exp(random.uniform(-12, 5, (4096, 1)))
    values = (random.standard_normal((4096, 64)) * scale).astype(np.float32)
    error = np.abs(quants.dequantize(quants.quantize(values, type_), type_).reshape(values.shape) - values)
    bound = error_bound(values, type_)
    assert (error <= bound).all()
    if type_ is not GGMLQuantizationType.F32:
        assert (error / bound).max() > 0.5


@pytest.mark.parametrize(
    ("sampling", "different"),
    [
        ({"do_sample": True, "top_k": 1}, ""),
        ({}, "top_k"),
        ({"top_k": 64, "top_p": 0.95}, "top_k, top_p"),
        ({"top_k": 1, "temperature": 1.0}, "temp"),
    ],
)
def test_a_file_that_a_client_can_make_sample_is_found(
    tiny_gemma: Path, tmp_path: Path, sampling: dict[str, object], different: str
) -> None:
    folder = Path(shutil.copytree(tiny_gemma, tmp_path / "model"))
    write_json(folder / "generation_config.json", sampling)
    with GgufFile(export_gguf(folder, tmp_path / "out.gguf", weights=QuantType.F32).path) as file:
        check = greedy_check(file)
    assert (check.passed, check.detail) == (not different, different)
