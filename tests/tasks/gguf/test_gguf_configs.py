"""Configs that upstream turns into another model without a word: llama.cpp computes each as transformers does.

Every change is proven twice: the file passes verification against the changed model, and fails against the unchanged.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_samples import CONFIG, tiny_weights, write_json
from safetensors.numpy import save_file

from tasks.checkpoints.architectures import describe
from tasks.gguf.container import GgufFile
from tasks.gguf.reader import import_gguf
from tasks.gguf.writer import export_gguf, plan_export
from tasks.quant.types import QuantType
from tasks.verification.verify import verify_gguf

_PROMPTS = ["Audit pump P-101 for a leak at the seal, pressure 3.5 bar, and inspect it tomorrow"]  # beyond the window
_KINDS = {"s": "sliding_attention", "f": "full_attention"}


def _layers(letters: str) -> dict[str, Any]:
    return {"layer_types": [_KINDS[letter] for letter in letters]}


def _rope(**full: Any) -> dict[str, Any]:
    sliding = {"rope_type": "default", "rope_theta": 10_000.0}
    return {"rope_parameters": {"full_attention": full, "sliding_attention": sliding}}


CONFIGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # change -> keys of its own in the file
    "one layer in two is global": (_layers("sfsfsfs"), {"attention.sliding_window_pattern": 2}),
    "one layer in seven is global": (_layers("ssssssf"), {"attention.sliding_window_pattern": 7}),
    "no layer is global": (_layers("sssssss"), {"attention.sliding_window_pattern": 0}),
    "every layer is global": (_layers("fffffff"), {"attention.sliding_window": None}),
    "scores scaled by another number": ({"query_pre_attn_scalar": 8}, {}),
    "capped logits": ({"final_logit_softcapping": 1.5}, {"final_logit_softcapping": 1.5}),
    "linear rope scaling": (
        _rope(rope_type="linear", factor=8.0, rope_theta=5_000.0),
        {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0, "rope.freq_base": 5_000.0},
    ),
}


@pytest.fixture(scope="module")
def attentive_gemma(tiny_gemma: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with sharp attention and without the gain that drowns it: what each layer sees matters."""
    folder = Path(shutil.copytree(tiny_gemma, tmp_path_factory.mktemp("attentive") / "model"))
    weights = tiny_weights()
    weights["model.layers.3.post_feedforward_layernorm.weight"][5] = 0
    for name, values in weights.items():
        if "q_norm" in name or "k_norm" in name:
            values += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _changed(folder: Path, target: Path, change: Mapping[str, Any]) -> Path:
    copy = Path(shutil.copytree(folder, target))
    write_json(copy / "config.json", {**CONFIG, **change})
    return copy


def _failed(gguf: Path, folder: Path) -> set[str]:
    return {check.name for check in verify_gguf(gguf, folder, _PROMPTS).checks if not check.passed}


def _keys(gguf: Path) -> dict[str, Any]:
    with GgufFile(gguf) as file:
        return {key.removeprefix("gemma3."): value for key, value in file.metadata.items()}


@pytest.mark.parametrize(("change", "keys"), CONFIGS.values(), ids=CONFIGS)
def test_llama_cpp_computes_what_transformers_does(
    attentive_gemma: Path, tmp_path: Path, change: dict[str, Any], keys: dict[str, Any]
) -> None:
    folder = _changed(attentive_gemma, tmp_path / "changed", change)
    out = export_gguf(folder, tmp_path / "out.gguf", weights=QuantType.F32).path

    assert {key: _keys(out).get(key) for key in keys} == keys
    assert _failed(out, folder) == set()
    assert "KL to the float32 model" in _failed(out, attentive_gemma)
    import_gguf(out, tmp_path / "imported")
    assert _failed(out, tmp_path / "imported") == set()


def test_the_keys_of_a_plain_gemma_are_upstreams_alone(tiny_gemma: Path, tmp_path: Path) -> None:
    keys = _keys(export_gguf(tiny_gemma, tmp_path / "out.gguf", weights=QuantType.F32).path)
    assert not {key for _, own in CONFIGS.values() for key in own} - {"rope.freq_base", "attention.sliding_window"} & {
        *keys
    }


def test_older_rope_scaling_gives_the_same_file(tiny_gemma: Path, tmp_path: Path) -> None:
    new = _rope(rope_type="linear", factor=8.0, rope_theta=5_000.0)
    old = {"rope_parameters": None, "rope_theta": 5_000, "rope_scaling": {"rope_type": "linear", "factor": 8}}
    for name, change in {"new": new, "old": old}.items():
        folder = _changed(tiny_gemma, tmp_path / name / "model", change)
        export_gguf(folder, tmp_path / f"{name}.gguf", weights=QuantType.F32)
    assert (tmp_path / "new.gguf").read_bytes() == (tmp_path / "old.gguf").read_bytes()


@pytest.mark.parametrize("tied", [True, False])
def test_an_output_matrix_of_its_own_is_written_whatever_config_json_says(
    tiny_gemma: Path, tmp_path: Path, tied: bool
) -> None:
    folder = _changed(tiny_gemma, tmp_path / "untied", {"tie_word_embeddings": tied})
    output = np.random.default_rng(7).standard_normal((CONFIG["vocab_size"], CONFIG["hidden_size"])) / 8
    save_file({**tiny_weights(), "lm_head.weight": output.astype(np.float32)}, folder / "model.safetensors")

    out = export_gguf(folder, tmp_path / "out.gguf", weights=QuantType.F32).path
    assert _failed(out, folder) == set()
    assert "KL to the float32 model" in _failed(out, tiny_gemma)
    types = {tensor.gguf_name: tensor.type for tensor in plan_export(folder, weights=QuantType.Q4_0).tensors}
    assert types["output.weight"] is QuantType.Q8_0  # as llama-quantize does
    assert types["token_embd.weight"] is QuantType.Q4_0


@pytest.mark.parametrize("tied", [True, False])
def test_the_embedding_once_more_as_output_matrix_is_dropped(tiny_gemma: Path, tmp_path: Path, tied: bool) -> None:
    folder = _changed(tiny_gemma, tmp_path / "model", {"tie_word_embeddings": tied})
    weights = tiny_weights()
    save_file({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}, folder / "model.safetensors")
    provenance = {"general.name": "x"}

    twice = export_gguf(folder, tmp_path / "twice.gguf", weights=QuantType.Q4_0, provenance=provenance)
    once = export_gguf(tiny_gemma, tmp_path / "once.gguf", weights=QuantType.Q4_0, provenance=provenance)
    assert twice.sha256 == once.sha256
    assert verify_gguf(twice.path, folder, _PROMPTS).passed


@pytest.mark.parametrize(
    ("text", "head"),
    [("language_model.model.", "language_model.lm_head."), ("model.language_model.", "lm_head.")],
    ids=["older names", "newer names"],
)
@pytest.mark.parametrize("tied", [True, False])
def test_of_a_multimodal_model_the_text_part_is_written(
    tiny_gemma: Path, tmp_path: Path, text: str, head: str, tied: bool
) -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, SiglipVisionConfig

    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=CONFIG, vision_config=vision, mm_tokens_per_image=1, eos_token_id=[1, 5])
    )
    folder = Path(shutil.copytree(tiny_gemma, tmp_path / "model"))
    model.config.save_pretrained(folder)
    part = "model." if text.startswith("model.") else ""
    others = {
        f"{part}{name.removeprefix('model.')}": tensor.detach().numpy()
        for name, tensor in model.named_parameters()
        if "language_model" not in name and "lm_head" not in name
    }
    weights = {f"{text}{name.removeprefix('model.')}": values for name, values in tiny_weights().items()}
    if not tied:
        weights[f"{head}weight"] = tiny_weights(seed=1)["model.embed_tokens.weight"]
    save_file({**weights, **others}, folder / "model.safetensors", metadata={"format": "pt"})

    provenance = {"general.name": "x"}
    out = export_gguf(folder, tmp_path / "out.gguf", weights=QuantType.F32, provenance=provenance)
    assert _failed(out.path, folder) == set()
    if tied:
        plain = export_gguf(tiny_gemma, tmp_path / "plain.gguf", weights=QuantType.F32, provenance=provenance)
        assert plain.sha256 == out.sha256


def test_a_sparse_text_config_has_the_defaults_of_transformers(tmp_path: Path) -> None:
    from transformers import Gemma3TextConfig

    sparse = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "num_hidden_layers": 34}}
    full = Gemma3TextConfig(num_hidden_layers=34).to_dict()
    assert describe(sparse).fields == describe(full).fields


@pytest.mark.parametrize(("scalar", "factor"), [(16, 1.0), (64, 0.5)])
def test_62_layers_are_scaled_as_llama_cpp_scales_gemma_27b(
    tiny_gemma: Path, tmp_path: Path, scalar: int, factor: float
) -> None:
    """There it divides by the root of hidden size / heads instead of the head's size, as that model does."""
    change = {
        "num_hidden_layers": 62, "layer_types": None, "num_attention_heads": 4, "intermediate_size": 32,
        "query_pre_attn_scalar": scalar,
    }  # fmt: skip
    folder = _changed(tiny_gemma, tmp_path / "model", change)
    model, random = describe({**CONFIG, **change}), np.random.default_rng(2)
    weights = {
        name: (random.standard_normal(shape) * (0.2 if len(shape) == 1 else shape[-1] ** -0.5)).astype(np.float32)
        for name, shape in model.tensor_shapes.items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    assert model.fields["q_norm_factor"] == factor
    out = export_gguf(folder, tmp_path / "out.gguf", weights=QuantType.F32).path
    assert _failed(out, folder) == set()
