import json
from pathlib import Path

import numpy as np
import pytest
from gguf.constants import GGUFValueType
from gguf_samples import CONFIG, tiny_weights
from safetensors.numpy import load_file

from registry.errors import UsageError
from tasks.gguf.container import GgufFile, KeyValue, header_bytes
from tasks.gguf.reader import import_gguf
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType


@pytest.fixture(scope="module")
def exported(tiny_gemma: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "tiny.gguf"
    export_gguf(tiny_gemma, out, weights=QuantType.F32)
    return out


def test_an_exported_folder_comes_back(tiny_gemma: Path, exported: Path, tmp_path: Path) -> None:
    import_gguf(exported, tmp_path / "back")

    weights = load_file(tmp_path / "back" / "model.safetensors")
    expected = tiny_weights()
    assert weights.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(weights[name], values, rtol=0, atol=2.0**-23 if values.ndim == 1 else 0)
    assert weights["model.layers.3.post_feedforward_layernorm.weight"][5] == 1656.0
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {key: config[key] for key in CONFIG} == CONFIG
    assert (tmp_path / "back" / "tokenizer.json").read_text() == json.dumps(
        json.loads((tiny_gemma / "tokenizer.json").read_text()), ensure_ascii=False
    )
    generation = json.loads((tmp_path / "back" / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["top_k"], generation["top_p"]) == ([1, 5], 64, 0.95)


@pytest.mark.parametrize("weights", list(QuantType))
def test_a_file_that_was_imported_converts_to_the_same_bytes(
    tiny_gemma: Path, tmp_path: Path, weights: QuantType
) -> None:
    provenance = {"general.name": "Gemma of line 7"}
    once = export_gguf(tiny_gemma, tmp_path / "once.gguf", weights=weights, provenance=provenance)
    import_gguf(once.path, tmp_path / "back")
    twice = export_gguf(tmp_path / "back", tmp_path / "twice.gguf", weights=weights, provenance=provenance)
    assert once.sha256 == twice.sha256


def _rewritten(source: Path, target: Path, change: dict[str, object], drop: str | None = None) -> Path:
    """``source`` with other metadata and the same tensors."""
    with GgufFile(source) as file:
        entries = [
            KeyValue(key, file.types[key], change.get(key, value))
            for key, value in file.metadata.items()
            if key != drop
        ]
        entries += [
            KeyValue(key, GGUFValueType.STRING if isinstance(value, str) else GGUFValueType.FLOAT32, value)
            for key, value in change.items()
            if key not in file.metadata
        ]
        start = min(tensor.offset for tensor in file.tensors.values())
        header = header_bytes(
            entries,
            [(item.name, item.shape, item.type, item.offset - start) for item in file.tensors.values()],
        )
    target.write_bytes(header + source.read_bytes()[start:])
    return target


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"general.architecture": "mamba"}, "architecture 'mamba'; only gemma3, llama"),
        ({"tokenizer.ggml.model": "bert"}, "tokenizer 'bert'"),
        ({"tokenizer.ggml.model": "gpt2"}, "the way 'default'; only gpt-2, smollm"),
        ({"tokenizer.ggml.tokens": ["a"]}, "token"),
        ({"tokenizer.ggml.scores": [0.0]}, "416 tokens, but 1 scores"),
        ({"tokenizer.ggml.token_type": [99] * 416}, "unknown type 99"),
        ({"tokenizer.ggml.bos_token_id": 416}, "bos_token_id = 416"),
        ({"gemma3.block_count": 2**32 - 1}, "block_count"),
        ({"gemma3.block_count": 10**6}, "1000000 layers"),
        ({"gemma3.attention.value_length": 16}, "value_length = 16, which contradicts"),
        ({"general.sampling.top_k": -1}, "top_k = -1"),
        ({"tokenizer.ggml.add_eos_token": True}, "add_eos_token = False"),
        ({"gemma3.block_count": 6}, r"blk\.6\."),
        ({"gemma3.block_count": 8}, r"blk\.7\."),
        ({"gemma3.embedding_length": 128}, r"token_embd\.weight of shape \(416, 64\)"),
        ({"gemma3.attention.layer_norm_rms_epsilon": float("nan")}, "layer_norm_rms_epsilon"),
        ({"gemma3.rope.scaling.type": "yarn"}, "'yarn'"),
        ({"gemma3.rope.scaling.attn_factor": 8.0}, "rope.scaling.attn_factor"),
        ({"gemma3.rope.scale_linear": 8.0}, "rope.scale_linear"),
        ({"gemma3.attn_logit_softcapping": 30.0}, "attn_logit_softcapping"),
    ],
)
def test_a_file_that_is_no_gemma_3_is_refused_and_nothing_is_written(
    exported: Path, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    file = _rewritten(exported, tmp_path / "changed.gguf", change)
    with pytest.raises(UsageError, match=reason):
        import_gguf(file, tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["changed.gguf"]


@pytest.mark.parametrize(
    "key",
    ["gemma3.context_length", "tokenizer.ggml.scores", "tokenizer.ggml.eos_token_id", "general.architecture"],
)
def test_a_file_without_a_key_is_refused(exported: Path, tmp_path: Path, key: str) -> None:
    file = _rewritten(exported, tmp_path / "changed.gguf", {}, drop=key)
    with pytest.raises(UsageError, match=key.rpartition(".")[2]):
        import_gguf(file, tmp_path / "back")


def test_a_rope_scaling_of_none_is_read(exported: Path, tmp_path: Path) -> None:
    file = _rewritten(exported, tmp_path / "changed.gguf", {"gemma3.rope.scaling.type": "none"})
    import_gguf(file, tmp_path / "back")
    assert (tmp_path / "back" / "config.json").is_file()


def test_a_folder_that_holds_something_is_never_replaced(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(UsageError, match="not an empty folder"):
        import_gguf(exported, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_truncated_file_leaves_no_folder(exported: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(exported.read_bytes()[:-4096])
    with pytest.raises(UsageError, match="cut short"):
        import_gguf(cut, tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["cut.gguf"]
