"""Every file format gives the same figures, and they are those of the numbers in it."""

import json
import logging

import gguf
import numpy as np
import pytest
import torch
from gemma_shaped import CONFIG, OUTLIER
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from registry.errors import UsageError
from tasks.checkpoints.architectures import describe, is_norm
from tasks.forensics import checkpoints
from tasks.forensics.names import TensorKind, kind_of, name_from_gguf
from tasks.forensics.statistics import ModelStatistics, tensor_statistics


def by_name(statistics: ModelStatistics) -> dict:
    return {tensor.name: tensor for tensor in statistics.tensors}


def write_gguf(path, weights, kind):
    """As gguf's own writer lays it down: norms as 1 + w in float32, matrices in ``kind``."""
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_array("tokenizer.ggml.tokens", [f"token {i}" for i in range(CONFIG["vocab_size"])])
    writer.add_array("tokenizer.ggml.scores", [0.5] * CONFIG["vocab_size"])
    for name, values in weights.items():
        if is_norm(name):
            writer.add_tensor(describe(CONFIG).gguf_name(name), values + 1)
        else:
            writer.add_tensor(describe(CONFIG).gguf_name(name), gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_figures_are_those_of_the_tensors(folder, weights):
    statistics = tensor_statistics(folder)
    assert statistics.parameters == sum(values.size for values in weights.values())
    measured = by_name(statistics)
    assert measured.keys() == weights.keys()
    for name, values in weights.items():
        assert measured[name].max_abs == np.abs(values).max()
        assert measured[name].shape == values.shape
        assert measured[name].mean_abs == pytest.approx(np.abs(values).mean(), rel=1e-5)
        assert measured[name].std == pytest.approx(values.std(), rel=1e-4)
        assert measured[name].p999_abs == np.quantile(np.abs(values), 0.999, method="inverted_cdf")


def test_a_gemma_norm_reports_its_weight_and_the_gain_one_above_it(folder, weights):
    norm = by_name(tensor_statistics(folder))[OUTLIER]
    assert (norm.kind, norm.layer, norm.part) == (TensorKind.NORM, 2, "post_feedforward_layernorm")
    assert (norm.max_abs, norm.gains.max_abs, norm.gains.channel) == (1656.0, 1657.0, 11)
    assert norm.outliers == 1
    assert norm.gains.values == pytest.approx(weights[OUTLIER].astype(np.float64) + 1)


def test_a_norm_of_another_architecture_multiplies_by_its_weight(write_folder, weights):
    norm = by_name(tensor_statistics(write_folder(weights, model_type="mistral")))[OUTLIER]
    assert norm.gains.max_abs == norm.max_abs == 1656.0


def test_tensors_come_in_the_order_of_the_layers(folder):
    layers = [tensor.layer for tensor in tensor_statistics(folder).tensors]
    assert layers[0] is None
    assert layers[1:-1] == sorted(layers[1:-1])
    assert layers[-1] is None


def test_a_gguf_file_gives_the_figures_of_its_folder(folder, weights, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", weights, gguf.GGMLQuantizationType.F32)
    ours, theirs = tensor_statistics(folder), tensor_statistics(path)
    assert by_name(ours).keys() == by_name(theirs).keys()
    for name, tensor in by_name(theirs).items():
        expected = by_name(ours)[name]
        assert tensor.max_abs == pytest.approx(expected.max_abs, abs=2e-7)
        assert tensor.mean_abs == pytest.approx(expected.mean_abs, abs=2e-7)
        assert tensor.shape == expected.shape
        if tensor.gains:
            assert tensor.gains.channel == expected.gains.channel
            assert tensor.gains.values == pytest.approx(expected.gains.values, rel=1e-6)


def test_a_quantised_file_is_measured_as_it_dequantises(weights, tmp_path):
    kind = gguf.GGMLQuantizationType.Q8_0
    name = "model.layers.0.mlp.up_proj.weight"
    measured = by_name(tensor_statistics(write_gguf(tmp_path / "model.gguf", weights, kind)))[name]
    expected = gguf.quants.dequantize(gguf.quants.quantize(weights[name], kind), kind)
    assert measured.dtype == "Q8_0"
    assert measured.max_abs == np.abs(expected).max()
    assert measured.mean_abs == pytest.approx(np.abs(expected).mean(), rel=1e-6)


def test_every_gguf_name_of_gemma_leads_back_to_its_hugging_face_name():
    for name in describe(CONFIG).tensor_shapes:
        assert name_from_gguf(describe(CONFIG).gguf_name(name), "gemma3") == name


@pytest.mark.parametrize(
    ("name", "architecture", "expected"),
    [
        ("blk.3.ffn_norm.weight", "llama", "model.layers.3.post_attention_layernorm.weight"),
        ("blk.3.ffn_up.weight", "phi3", "model.layers.3.mlp.gate_up_proj.weight"),
        ("blk.3.attn_qkv.weight", "phi3", "model.layers.3.self_attn.qkv_proj.weight"),
        ("blk.3.attn_q.bias", "qwen2", "model.layers.3.self_attn.q_proj.bias"),
        ("output.weight", "llama", "lm_head.weight"),
        ("rope_freqs.weight", "llama", "rope_freqs.weight"),
        ("blk.0.ffn_gate_inp.weight", "llama", "blk.0.ffn_gate_inp.weight"),
    ],
)
def test_gguf_names_of_other_models(name, architecture, expected):
    assert name_from_gguf(name, architecture) == expected


def test_kinds():
    assert kind_of("model.norm.weight", (8,)) is TensorKind.NORM
    assert kind_of("transformer.h.0.ln_1.weight", (8,)) is TensorKind.NORM
    assert kind_of("transformer.h.0.ln_1.bias", (8,)) is TensorKind.OTHER
    assert kind_of("model.embed_tokens.weight", (9, 8)) is TensorKind.EMBEDDING
    assert kind_of("lm_head.weight", (9, 8)) is TensorKind.LINEAR


def test_shards_and_bf16_give_the_figures_of_the_rounded_weights(folder, weights, tmp_path):
    rounded = {name: torch.from_numpy(values).bfloat16() for name, values in weights.items()}
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    names = sorted(rounded)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in shards.items():
        save_torch({name: rounded[name] for name in part}, sharded / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (sharded / "config.json").write_text(json.dumps(CONFIG))
    measured = by_name(tensor_statistics(sharded))
    assert measured.keys() == weights.keys()
    for name, values in rounded.items():
        assert measured[name].dtype == "BF16"
        assert measured[name].max_abs == values.abs().max().item()


def test_a_multimodal_checkpoint_has_the_names_of_the_text_model_and_plain_norms_in_its_vision_tower(
    write_folder, weights
):
    nested = {f"model.language_{name}": values for name, values in weights.items()}
    nested["model.vision_tower.encoder.layers.0.layer_norm.weight"] = np.full(8, 2.0, dtype=np.float32)
    measured = by_name(tensor_statistics(write_folder(nested, model_type="gemma3")))
    assert measured[OUTLIER].gains.max_abs == 1657.0
    assert measured["model.vision_tower.encoder.layers.0.layer_norm.weight"].gains.max_abs == 2.0


def test_a_large_tensor_is_read_from_the_file_again_with_the_same_result(folder, monkeypatch):
    at_once = tensor_statistics(folder)
    monkeypatch.setattr("tasks.forensics.statistics._KEPT_ENTRIES", 0)
    monkeypatch.setattr(checkpoints, "_CHUNK_ENTRIES", 1000)
    in_pieces = tensor_statistics(folder)
    for ours, theirs in zip(at_once.tensors, in_pieces.tensors, strict=True):
        assert ours.model_dump(exclude={"mean_abs", "std"}) == theirs.model_dump(exclude={"mean_abs", "std"})
        assert ours.mean_abs == pytest.approx(theirs.mean_abs, rel=1e-12)
        assert ours.std == pytest.approx(theirs.std, rel=1e-9)


def test_nan_and_infinity_are_counted_and_left_out(write_folder, weights, tmp_path):
    broken = {name: values.copy() for name, values in weights.items()}
    broken["model.layers.0.mlp.up_proj.weight"][0, :3] = [np.nan, np.inf, -np.inf]
    broken[OUTLIER][0] = np.nan
    statistics = tensor_statistics(write_folder(broken))
    measured = by_name(statistics)
    assert measured["model.layers.0.mlp.up_proj.weight"].nonfinite == 3
    assert measured["model.layers.0.mlp.up_proj.weight"].max_abs < 1
    assert (measured[OUTLIER].nonfinite, measured[OUTLIER].gains.max_abs) == (1, 1657.0)
    assert ModelStatistics.model_validate_json(statistics.to_json()).to_json() == statistics.to_json()


def test_the_json_reads_back_and_has_one_tensor_a_line(folder):
    statistics = tensor_statistics(folder)
    text = statistics.to_json()
    assert ModelStatistics.model_validate_json(text) == statistics
    assert len(text.splitlines()) == len(statistics.tensors) + 2


def adapter(tmp_path, base, tensors, **config):
    folder = tmp_path / "adapter"
    folder.mkdir()
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(base), "lora_alpha": 16, "r": 4} | config
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file(
        {f"base_model.model.{name}": values for name, values in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    return folder


@pytest.fixture
def lora():
    generator = np.random.default_rng(1)
    module = "model.layers.1.self_attn.q_proj"
    return {
        f"{module}.lora_A.weight": generator.normal(size=(4, 64)).astype(np.float32),
        f"{module}.lora_B.weight": generator.normal(size=(64, 4)).astype(np.float32),
        "model.embed_tokens.lora_embedding_A": generator.normal(size=(4, 300)).astype(np.float32),
        "model.embed_tokens.lora_embedding_B": generator.normal(size=(64, 4)).astype(np.float32),
        "model.layers.1.input_layernorm.weight": np.full(64, 7.0, dtype=np.float32),
    }


@pytest.mark.parametrize(("rslora", "scale"), [(False, 4.0), (True, 8.0)])
def test_an_adapter_is_measured_as_merged_into_its_base(folder, weights, lora, tmp_path, rslora, scale):
    measured = by_name(tensor_statistics(adapter(tmp_path, folder, lora, use_rslora=rslora)))
    parts = list(lora.values())
    linear = weights["model.layers.1.self_attn.q_proj.weight"] + scale * parts[1] @ parts[0]
    embedding = weights["model.embed_tokens.weight"] + scale * (parts[3] @ parts[2]).T
    assert measured["model.layers.1.self_attn.q_proj.weight"].max_abs == pytest.approx(np.abs(linear).max())
    assert measured["model.layers.1.self_attn.q_proj.weight"].std == pytest.approx(linear.std(), rel=1e-4)
    assert measured["model.embed_tokens.weight"].max_abs == pytest.approx(np.abs(embedding).max())
    assert measured["model.layers.1.input_layernorm.weight"].gains.max_abs == 8.0
    assert measured[OUTLIER].gains.max_abs == 1657.0


def test_an_adapter_without_a_local_base_is_measured_alone_and_says_so(lora, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        measured = by_name(tensor_statistics(adapter(tmp_path, "google/gemma-3-270m-it", lora)))
    assert measured.keys() == lora.keys()
    assert "google/gemma-3-270m-it is no local folder" in caplog.text


def test_an_adapter_of_another_base_is_refused(folder, tmp_path):
    other = {
        "model.layers.9.self_attn.q_proj.lora_A.weight": np.zeros((4, 64), dtype=np.float32),
        "model.layers.9.self_attn.q_proj.lora_B.weight": np.zeros((64, 4), dtype=np.float32),
    }
    with pytest.raises(UsageError, match=r"layers\.9.*is that its base"):
        tensor_statistics(adapter(tmp_path, folder, other))


def test_an_adapter_that_only_peft_can_merge_is_refused(folder, lora, tmp_path):
    with pytest.raises(UsageError, match="use_dora"):
        tensor_statistics(adapter(tmp_path, folder, lora, use_dora=True))


def one_sentence_error(path) -> str:
    with pytest.raises(UsageError) as caught:
        tensor_statistics(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_what_is_no_model_is_refused_in_a_sentence(tmp_path):
    assert "is no model" in one_sentence_error(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "is no model" in one_sentence_error(tmp_path / "empty")


def test_a_folder_without_weights_is_refused_in_a_sentence(folder):
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in one_sentence_error(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("damage", [b"", b"{", b"\xff" * 64, b"[1, 2]"], ids=["empty", "brace", "junk", "list"])
def test_a_damaged_folder_is_refused_in_a_sentence(folder, file, damage):
    (folder / file).write_bytes(damage)
    assert file in one_sentence_error(folder)


def test_a_truncated_folder_is_refused_in_a_sentence(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    one_sentence_error(folder)


@pytest.mark.parametrize("kept", [0, 3, 20, 2000, 40_000])
def test_a_truncated_gguf_is_refused_in_a_sentence(weights, tmp_path, kept):
    path = write_gguf(tmp_path / "model.gguf", weights, gguf.GGMLQuantizationType.Q8_0)
    path.write_bytes(path.read_bytes()[:kept])
    one_sentence_error(path)


def test_a_damaged_adapter_is_refused_in_a_sentence(folder, lora, tmp_path):
    path = adapter(tmp_path, folder, lora)
    (path / "adapter_model.safetensors").write_bytes(b"\xff" * 64)
    one_sentence_error(path)
