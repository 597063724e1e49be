import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from gguf_samples import CONFIG, tiny_weights, write_json
from safetensors.numpy import save_file

from registry.errors import UsageError
from registry.files import file_sha256
from tasks.checkpoints.architectures import EMBEDDING, describe, is_norm
from tasks.gguf.container import GgufFile
from tasks.gguf.plan import plan_types
from tasks.gguf.writer import export_gguf, plan_export
from tasks.quant.types import QuantType

# In upstream's order, but for the last two, which its rewriting puts there; general.sampling.temp follows top_p where
# generation_config.json has a temperature.
UPSTREAM_KEYS = [
    *("general.architecture", "general.type", "general.sampling.top_k", "general.sampling.top_p"),
    *("general.name", "general.size_label"),
    *("gemma3.block_count", "gemma3.context_length", "gemma3.embedding_length", "gemma3.feed_forward_length"),
    *("gemma3.attention.head_count", "gemma3.attention.head_count_kv"),
    *("gemma3.rope.freq_base", "gemma3.rope.freq_base_swa", "gemma3.attention.layer_norm_rms_epsilon"),
    *("gemma3.attention.key_length", "gemma3.attention.value_length", "gemma3.attention.sliding_window"),
    *("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens", "tokenizer.ggml.scores"),
    *("tokenizer.ggml.token_type", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"),
    *("tokenizer.ggml.unknown_token_id", "tokenizer.ggml.padding_token_id", "tokenizer.ggml.add_bos_token"),
    *("tokenizer.ggml.add_sep_token", "tokenizer.ggml.add_eos_token", "tokenizer.chat_template"),
    *("tokenizer.ggml.add_space_prefix", "general.quantization_version", "general.file_type"),
]


def _types(letters: str) -> list[str]:
    return [{"s": "sliding_attention", "f": "full_attention"}[letter] for letter in letters]


def _copy(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target / "model"))


@pytest.mark.parametrize("weights", list(QuantType))
def test_every_tensor_has_the_bytes_of_gguf_py(tiny_gemma: Path, tmp_path: Path, weights: QuantType) -> None:
    report = export_gguf(tiny_gemma, tmp_path / "out.gguf", weights=weights, embedding=weights)

    assert report.sha256 == file_sha256(report.path)
    assert report.bytes == report.path.stat().st_size
    with GgufFile(report.path) as file:
        assert len(file.tensors) == report.tensors == len(tiny_weights())
        for name, values in tiny_weights().items():
            type_ = GGMLQuantizationType.F32 if values.ndim == 1 else GGMLQuantizationType[weights.name]
            expected = gguf.quants.quantize(values + np.float32(1) if is_norm(name) else values, type_)
            tensor = file.tensors[describe(CONFIG).gguf_name(name)]
            assert (tensor.type, tensor.shape) == (type_, values.shape)
            assert file.raw_rows(tensor.name, 0, tensor.rows).tobytes() == expected.tobytes()


def test_the_metadata_is_upstreams_and_then_the_provenance(tiny_gemma: Path, tmp_path: Path) -> None:
    provenance = {
        "gemmill.snapshot": "abc",
        "general.name": "Gemma of line 7",
        "general.license": "gemma",
        "general.version": "3",
    }
    report = export_gguf(tiny_gemma, tmp_path / "out.gguf", weights=QuantType.Q4_0, provenance=provenance)

    with GgufFile(report.path) as file:
        keys = list(file.metadata)
        assert [key for key in keys if key in UPSTREAM_KEYS] == UPSTREAM_KEYS
        assert set(keys) - set(UPSTREAM_KEYS) == provenance.keys() - {"general.name"}
        assert keys.index("general.license") == keys.index("general.size_label") + 1
        assert {key: file.metadata[key] for key in provenance} == provenance
        assert file.metadata["general.size_label"] == "244K"
        assert file.metadata["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q4_0
        assert file.metadata["general.sampling.top_k"] == 64
        assert file.types["general.sampling.top_k"] is gguf.GGUFValueType.INT32
        assert file.metadata["gemma3.block_count"] == 7
        assert file.metadata["gemma3.rope.freq_base"] == 1_000_000.0
        assert file.metadata["gemma3.rope.freq_base_swa"] == 10_000.0
        assert file.types["tokenizer.ggml.add_bos_token"] is gguf.GGUFValueType.BOOL


def test_the_licence_is_the_model_cards_unless_the_provenance_says_another(tiny_gemma: Path, tmp_path: Path) -> None:
    folder = _copy(tiny_gemma, tmp_path)
    card = folder / "README.md"

    def licence(**provenance: str) -> dict[str, str]:
        export_gguf(folder, tmp_path / "out.gguf", weights=QuantType.Q8_0, provenance=provenance)
        with GgufFile(tmp_path / "out.gguf") as file:
            return {key: value for key, value in file.metadata.items() if key.startswith("general.license")}

    assert licence() == {}
    card.write_text("---\nlicense: other\nlicense_name: plant\ntags:\n- gemma3\n---\n# A model\n", encoding="utf-8")
    assert licence() == {"general.license": "other", "general.license.name": "plant"}
    assert licence(**{"general.license": "gemma"}) == {"general.license": "gemma"}
    card.write_text("---\nlicense: [\n---\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"the head of .*README\.md is not YAML"):
        licence()


def test_a_tied_embedding_of_a_q4_0_file_is_q8_0_unless_asked_otherwise(tiny_gemma: Path) -> None:
    def type_of_embedding(embedding: QuantType | None) -> QuantType:
        plan = plan_export(tiny_gemma, weights=QuantType.Q4_0, embedding=embedding)
        return next(tensor.type for tensor in plan.tensors if tensor.hf_name == EMBEDDING)

    assert type_of_embedding(None) is QuantType.Q8_0
    assert type_of_embedding(QuantType.Q4_0) is QuantType.Q4_0


def test_the_plan_predicts_the_file_to_the_byte(tiny_gemma: Path, tmp_path: Path) -> None:
    plan = plan_export(tiny_gemma, weights=QuantType.Q5_1)
    report = export_gguf(tiny_gemma, tmp_path / "out.gguf", weights=QuantType.Q5_1)

    assert plan.file_bytes == report.bytes == json.loads(plan.to_json())["bytes"]
    bits = {tensor.type: tensor.bits_per_weight for tensor in plan.tensors}
    assert bits == {QuantType.F32: 32, QuantType.Q8_0: 8.5, QuantType.Q5_1: 6}


def test_rows_that_a_block_does_not_divide_are_refused() -> None:
    model = describe({**CONFIG, "intermediate_size": 100})
    with pytest.raises(UsageError, match=r"blk\.0\.ffn_down\.weight: a row of 100 .* q4_0 block of 32"):
        plan_types(model, weights=QuantType.Q4_0)
    assert plan_types(model, weights=QuantType.BF16)


def test_shards_and_bf16_give_the_same_file(tiny_gemma: Path, tmp_path: Path) -> None:
    weights = tiny_weights()
    sharded = _copy(tiny_gemma, tmp_path)
    (sharded / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, part in shards.items():
        save_file({name: weights[name] for name in part}, sharded / shard)
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    write_json(sharded / "model.safetensors.index.json", {"weight_map": weight_map})
    provenance = {"general.name": "x"}

    one = export_gguf(tiny_gemma, tmp_path / "one.gguf", weights=QuantType.Q8_0, provenance=provenance)
    two = export_gguf(sharded, tmp_path / "two.gguf", weights=QuantType.Q8_0, provenance=provenance)
    assert one.sha256 == two.sha256


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_checkpoints_are_read_exactly(tiny_gemma: Path, tmp_path: Path, dtype: str) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    kind = {"F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    rounded = {name: torch.from_numpy(values).to(kind) for name, values in tiny_weights().items()}
    folder = _copy(tiny_gemma, tmp_path)
    save_torch(rounded, folder / "model.safetensors")

    report = export_gguf(folder, tmp_path / "out.gguf", weights=QuantType.F32)
    with GgufFile(report.path) as file:
        for name, values in rounded.items():
            found = file.rows(
                describe(CONFIG).gguf_name(name), 0, file.tensors[describe(CONFIG).gguf_name(name)].rows
            ).reshape(values.shape)
            np.testing.assert_array_equal(found, values.float().numpy() + np.float32(is_norm(name)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "mamba"}, "'mamba'; only gemma3_text, llama"),
        ({"layer_types": _types("sfssfss")}, "no other order"),
        ({"layer_types": _types("fsfsfsf")}, "no other order"),
        ({"layer_types": _types("sssssf")}, "no other order"),
        ({"layer_types": "full_attention"}, "no other order"),
        ({"layer_types": None, "sliding_window_pattern": 0}, "sliding_window_pattern = 0"),
        ({"sliding_window": None}, "sliding_window = None"),
        ({"query_pre_attn_scalar": 0}, "query_pre_attn_scalar = 0"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"tie_word_embeddings": False}, r"lacks lm_head\.weight"),
        ({"final_logit_softcapping": -30.0}, "final_logit_softcapping"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_activation": "silu"}, "hidden_activation"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 8.0}}}, "only rope_type linear"),
        ({"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 8.0}}}, "only rope_type linear"),
        ({"rope_parameters": {"full_attention": {"partial_rotary_factor": 0.5}}}, "only rope_type linear"),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear"}}}, "rope factor = None"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "rope_parameters of other layers"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "only rope_type linear"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "only rope_type linear"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": 513}, "num_hidden_layers"),
        ({"hidden_size": "64"}, "hidden_size = '64'"),
        ({"hidden_size": 128}, r"of shape \(\d+, 64\)|of shape \(64"),
        ({"vocab_size": 10**12}, "vocab_size|of shape"),
        ({"rms_norm_eps": None}, "rms_norm_eps"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    tiny_gemma: Path, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    folder = _copy(tiny_gemma, tmp_path)
    write_json(folder / "config.json", {**CONFIG, **change})
    with pytest.raises(UsageError, match=reason):
        export_gguf(folder, tmp_path / "out.gguf", weights=QuantType.F32)
    assert list(tmp_path.glob("*.gguf*")) == list(tmp_path.glob(".*gguf*")) == []


def test_the_older_rope_fields_give_the_same_file(tiny_gemma: Path, tmp_path: Path) -> None:
    folder = _copy(tiny_gemma, tmp_path)
    older = {key: value for key, value in CONFIG.items() if key not in ("rope_parameters", "layer_types")}
    write_json(
        folder / "config.json",
        {**older, "rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6},
    )
    provenance = {"general.name": "x"}
    new = export_gguf(tiny_gemma, tmp_path / "new.gguf", weights=QuantType.F16, provenance=provenance)
    old = export_gguf(folder, tmp_path / "old.gguf", weights=QuantType.F16, provenance=provenance)
    assert new.sha256 == old.sha256


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_refused_and_the_old_file_stays(
    tiny_gemma: Path, tmp_path: Path, bad: float
) -> None:
    folder, out = _copy(tiny_gemma, tmp_path), tmp_path / "out.gguf"
    out.write_text("the old file")
    weights = tiny_weights()
    weights["model.layers.6.mlp.up_proj.weight"][3, 4] = bad
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UsageError, match=r"layers\.6\.mlp\.up_proj\.weight holds NaN or infinity"):
        export_gguf(folder, out, weights=QuantType.Q8_0)
    assert out.read_text() == "the old file"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out.gguf"]


def test_a_weight_beyond_f16_is_refused_for_f16_only(tiny_gemma: Path, tmp_path: Path) -> None:
    folder = _copy(tiny_gemma, tmp_path)
    weights = tiny_weights()
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e5
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UsageError, match="beyond f16"):
        export_gguf(folder, tmp_path / "out.gguf", weights=QuantType.F16)
    export_gguf(folder, tmp_path / "out.gguf", weights=QuantType.BF16)


def test_missing_and_unknown_tensors_are_named(tiny_gemma: Path, tmp_path: Path) -> None:
    folder = _copy(tiny_gemma, tmp_path)
    weights = tiny_weights()
    del weights["model.layers.2.self_attn.k_norm.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UsageError, match=r"lacks model\.layers\.2\.self_attn\.k_norm\.weight"):
        export_gguf(folder, tmp_path / "out.gguf", weights=QuantType.F32)
    extra = {**tiny_weights(), "model.vision.weight": np.ones((2, 2), dtype=np.float32)}
    save_file(extra, folder / "model.safetensors")
    with pytest.raises(UsageError, match=r"model\.vision\.weight"):
        export_gguf(folder, tmp_path / "out.gguf", weights=QuantType.F32)


def test_an_adapter_is_to_be_merged_first(tiny_gemma: Path, tmp_path: Path) -> None:
    folder = _copy(tiny_gemma, tmp_path)
    write_json(folder / "adapter_config.json", {})
    with pytest.raises(UsageError, match="merge it into its base first"):
        export_gguf(folder, tmp_path / "out.gguf", weights=QuantType.F32)


def test_a_provenance_key_must_not_replace_a_computed_one(tiny_gemma: Path, tmp_path: Path) -> None:
    for key in ("gemma3.block_count", "general.file_type"):
        with pytest.raises(UsageError, match=key):
            export_gguf(tiny_gemma, tmp_path / "out.gguf", weights=QuantType.F32, provenance={key: "x"})


@pytest.mark.parametrize("length", [0, 7, 8, 100, 5000, -1])
def test_truncated_safetensors_are_refused(tiny_gemma: Path, tmp_path: Path, length: int) -> None:
    folder = _copy(tiny_gemma, tmp_path)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:length])
    with pytest.raises(UsageError, match="not a sound safetensors file"):
        export_gguf(folder, tmp_path / "out.gguf", weights=QuantType.F32)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"\xff\xfe",
        json.dumps({"a": {}}).encode(),
        json.dumps({"a": {"dtype": "I8", "shape": [1], "data_offsets": [0, 1]}}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}).encode(),
        b"[" * 100_000,
    ],
)
def test_hostile_safetensors_headers_are_refused(tiny_gemma: Path, tmp_path: Path, header: bytes) -> None:
    folder = _copy(tiny_gemma, tmp_path)
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(UsageError, match="not a sound safetensors file"):
        export_gguf(folder, tmp_path / "out.gguf", weights=QuantType.F32)


def test_an_index_cannot_leave_its_folder(tiny_gemma: Path, tmp_path: Path) -> None:
    folder = _copy(tiny_gemma, tmp_path)
    (folder / "model.safetensors").unlink()
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"a": "../../secret.safetensors"}})
    with pytest.raises(UsageError, match="not a file of this folder"):
        export_gguf(folder, tmp_path / "out.gguf", weights=QuantType.F32)
