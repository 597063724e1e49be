"""Other architectures than Gemma's: llama.cpp computes each as transformers does, and each comes back."""

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from other_models import PROMPT, byte_level_tokenizer, save_model, save_tokenizer, shape
from safetensors.numpy import load_file
from transformers import AutoConfig, LlamaConfig, Phi3Config, PreTrainedConfig, Qwen2Config, Qwen3Config

from registry.errors import UsageError
from tasks.checkpoints.architectures import describe
from tasks.gguf.container import GgufFile
from tasks.gguf.reader import import_gguf
from tasks.gguf.writer import export_gguf, plan_export
from tasks.quant.types import QuantType
from tasks.verification.verify import verify_gguf

_PROMPTS = ["Audit pump P-101 for a leak at the seal, pressure 3.5 bar, and inspect it tomorrow", "line 7?"]
_LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 5_000.0}

MODELS: dict[str, tuple[PreTrainedConfig, str, bool]] = {  # config, pre-tokenizer, whether a BOS is added
    "SmolLM2": (LlamaConfig(**shape(tie_word_embeddings=True, rope_theta=100_000.0)), "smollm", False),
    "Llama 3": (LlamaConfig(**shape()), "llama-bpe", True),
    "Llama, wide heads": (LlamaConfig(**shape(head_dim=32)), "gpt-2", False),
    "Qwen2": (Qwen2Config(**shape(rope_theta=1e6)), "qwen2", False),
    "Qwen2.5": (Qwen2Config(**shape(tie_word_embeddings=True)), "qwen2", False),
    "Qwen3": (Qwen3Config(**shape(head_dim=32, tie_word_embeddings=True)), "qwen2", False),
    "Qwen3, untied": (Qwen3Config(**shape(head_dim=16)), "qwen2", False),
    "Phi-3": (Phi3Config(**shape()), "gpt-2", True),
    "Phi-3 with a window": (Phi3Config(**shape(sliding_window=600, tie_word_embeddings=True)), "dbrx", False),
    "Llama, linear rope scaling": (LlamaConfig(**shape(rope_parameters=_LINEAR)), "dbrx", False),
}


_DENSE = [
    *("block_count", "context_length", "embedding_length", "feed_forward_length"),
    *("attention.head_count", "attention.head_count_kv", "rope.freq_base", "attention.layer_norm_rms_epsilon"),
]
_HEADS = ["attention.key_length", "attention.value_length"]
UPSTREAM_KEYS = {  # in upstream's order
    "llama": [*_DENSE, *_HEADS, "vocab_size", "rope.dimension_count"],
    "qwen2": _DENSE,
    "qwen3": [*_DENSE, *_HEADS],
    "phi3": [
        *("context_length", "rope.scaling.original_context_length", "embedding_length", "feed_forward_length"),
        *("block_count", "attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon"),
        *("rope.dimension_count", "rope.freq_base", "attention.sliding_window"),
    ],
}


@pytest.fixture(scope="module", params=list(MODELS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as transformers saves it; copy it before changing it."""
    config, pre, bos = MODELS[request.param]
    path = tmp_path_factory.mktemp("model") / "model"
    save_model(config, path)
    save_tokenizer(byte_level_tokenizer(pre, bos=bos), path)
    return path


@pytest.mark.parametrize("weights", [QuantType.F32, QuantType.Q8_0])
def test_llama_cpp_computes_what_transformers_does(folder: Path, tmp_path: Path, weights: QuantType) -> None:
    out = export_gguf(folder, tmp_path / "out.gguf", weights=weights).path
    report = verify_gguf(out, folder, _PROMPTS, prompt=PROMPT)
    assert report.passed, [check for check in report.checks if not check.passed]


@pytest.mark.parametrize("weights", [QuantType.F32, QuantType.BF16, QuantType.Q4_1])
def test_a_file_that_was_imported_converts_to_the_same_bytes(folder: Path, tmp_path: Path, weights: QuantType) -> None:
    provenance = {"general.name": "x"}
    once = export_gguf(folder, tmp_path / "once.gguf", weights=weights, provenance=provenance)
    import_gguf(once.path, tmp_path / "back")
    twice = export_gguf(tmp_path / "back", tmp_path / "twice.gguf", weights=weights, provenance=provenance)
    assert once.sha256 == twice.sha256
    if weights is QuantType.F32:
        before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "back"))
        assert before.keys() - {"lm_head.weight"} == after.keys() - {"lm_head.weight"}
        assert all(np.array_equal(before[name], after[name]) for name in after)
        then, now = (AutoConfig.from_pretrained(path).to_dict() for path in (folder, tmp_path / "back"))
        assert {key for key in then if then[key] != now.get(key)} <= {"eos_token_id", "_name_or_path", "dtype"}


def test_the_keys_are_upstreams(folder: Path, tmp_path: Path) -> None:
    out = export_gguf(folder, tmp_path / "out.gguf", weights=QuantType.F32).path
    with GgufFile(out) as file:
        name = file.metadata["general.architecture"]
        ours = [key.removeprefix(f"{name}.") for key in file.metadata]
        scaling = [key for key in ours if key.startswith("rope.scaling.") and key not in UPSTREAM_KEYS[name]]
        assert [key for key in ours if key in UPSTREAM_KEYS[name]] == UPSTREAM_KEYS[name]
        assert {key: file.metadata[f"{name}.{key}"] for key in scaling} in (
            {},
            {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        )
        assert {key for key in file.metadata if key.startswith(f"{name}.")} == {
            f"{name}.{key}" for key in (*UPSTREAM_KEYS[name], *scaling)
        }


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama") / "model"
    config, pre, bos = MODELS["SmolLM2"]
    save_model(config, path)
    save_tokenizer(byte_level_tokenizer(pre, bos=bos), path)
    return path


@pytest.mark.parametrize("weights", [QuantType.F16, QuantType.Q8_0])
def test_llamas_queries_and_keys_have_the_rows_of_upstream(llama: Path, tmp_path: Path, weights: QuantType) -> None:
    """``LlamaModel.permute`` of llama.cpp's converter, then gguf-py's quantiser."""
    out = export_gguf(llama, tmp_path / "out.gguf", weights=weights).path
    own = load_file(llama / "model.safetensors")
    with GgufFile(out) as file:
        for part, name, heads in (("q", "attn_q", 4), ("k", "attn_k", 2), ("v", "attn_v", 0)):
            values = own[f"model.layers.1.self_attn.{part}_proj.weight"]
            if heads:
                halves = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
                values = halves.swapaxes(1, 2).reshape(values.shape)
            tensor = file.tensors[f"blk.1.{name}.weight"]
            expected = gguf.quants.quantize(values, GGMLQuantizationType[weights.name])
            assert file.raw_rows(tensor.name, 0, tensor.rows).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("Qwen2", {"use_sliding_window": True}, "use_sliding_window"),
        ("Qwen3", {"head_dim": None}, "head_dim = None"),
        ("Qwen3", {"attention_bias": True}, "attention_bias"),
        ("Phi-3", {"sliding_window": 511}, "lower max_position_embeddings, 512, to it"),
        ("Phi-3", {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0]}}, "only rope_type default"),
        ("Phi-3", {"rope_parameters": {"partial_rotary_factor": 0.75}}, "of all rows of a head"),
        ("Phi-3", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "which llama.cpp ignores for phi3"),
        ("Phi-3", {"original_max_position_embeddings": "512"}, "original_max_position_embeddings = '512'"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused_of_each(
    name: str, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        describe({**MODELS[name][0].to_dict(), **change})


def _config(folder: Path, target: Path, **changes: Any) -> Path:
    copy = Path(shutil.copytree(folder, target / "model"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | changes))
    return copy


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "only rope_type default"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 8.0}}, "only rope_type default"),
        ({"rope_parameters": {"rope_theta": 1e4, "low_freq_factor": 1.0}}, "only rope_type default"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "only rope_type default"),
        ({"rope_scaling": {"type": "linear"}}, "rope factor = None"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "of all rows of a head"),
        ({"rope_parameters": ["default"]}, "only rope_type default"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"head_dim": 15}, "head_dim even"),
        ({"head_dim": None, "hidden_size": 66}, "no multiple of its 4 heads, and no head_dim"),
        ({"num_key_value_heads": 3}, "multiple"),
        ({"vocab_size": 10}, "beyond the 10 rows|of shape"),
        ({"layer_types": ["sliding_attention"] * 3}, "only layers of full attention"),
        ({"layer_types": [{}]}, "only layers of full attention"),
        ({"layer_types": 5}, "only layers of full attention"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    llama: Path, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        plan_export(_config(llama, tmp_path, **change), weights=QuantType.F32)


def test_older_configs_give_the_same_file(llama: Path, tmp_path: Path) -> None:
    older = _config(llama, tmp_path, rope_parameters=None, rope_theta=100_000.0, rope_scaling=None, head_dim=None)
    files = [
        export_gguf(path, tmp_path / f"{number}.gguf", weights=QuantType.F16, provenance={"general.name": "x"})
        for number, path in enumerate((llama, older))
    ]
    assert files[0].sha256 == files[1].sha256
