"""Byte-level tokenizers, and SentencePiece's with a space in front: llama.cpp splits any text as Hugging Face does."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from gguf.constants import TokenType
from gguf_samples import CONFIG, SENTENCES, write_json
from hypothesis import example, given, settings
from hypothesis import strategies as st
from other_models import SIZE, SPECIAL, byte_level_tokenizer, save_model, save_tokenizer, shape
from tokenizers import Tokenizer
from transformers import LlamaConfig, PreTrainedTokenizerFast

from deployment.prompts.prompt import Prompt, require_turns
from deployment.runtimes.llama_server import LlamaServer
from registry.errors import UsageError
from tasks.gguf.container import GgufFile
from tasks.gguf.reader import import_gguf
from tasks.gguf.stored_tokenizer import read_tokenizer
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType
from tasks.tokenizers.pre_tokenizers import PRE_TOKENIZERS
from tasks.tokenizers.reading import load_tokenizer, load_vocabulary
from tasks.tokenizers.vocabulary import ByteLevelVocabulary
from tasks.verification.verify import PARITY_TEXTS

_SETTINGS: dict[str, Any] = {"vocab_size": SIZE, "bos_token_id": 1, "eos_token_id": 3}
_MARKS = [
    *" \n\r\t.,:{}\"'0123456789äΔ检½²٣",
    "  ",
    "   ",
    "\r\n",
    "\n\n",
    "\u00a0",
    "\u3000",
    "'s",
    "'RE",
    "'ll",
    "SG-402",
]
_AUDIT_TEXT = st.lists(st.sampled_from([*_MARKS, *" ".join(SENTENCES).split()]), max_size=25).map("".join)
_TEXT = st.one_of(st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=40), _AUDIT_TEXT)


@pytest.fixture(scope="module", params=list(PRE_TOKENIZERS))
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LlamaServer, Callable[[str], list[int]]]]:
    """llama.cpp with a tokenizer of each kind, and what Hugging Face makes of a text with it."""
    folder = tmp_path_factory.mktemp(request.param) / "model"
    save_model(LlamaConfig(**shape(num_hidden_layers=1)), folder)
    tokenizer = byte_level_tokenizer(request.param)
    save_tokenizer(tokenizer, folder)
    out = export_gguf(folder, folder.parent / "out.gguf", weights=QuantType.F16).path
    tokenizer.encode_special_tokens = True

    def hugging_face(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    with LlamaServer(out, prompt=Prompt(), slots=1, context=256) as server:
        yield server, hugging_face


@settings(max_examples=150, deadline=None)
@given(text=_TEXT)
@example(text="".join(PARITY_TEXTS))
@example(text="".join(SPECIAL))
@example(text="I'm he'S 'tis don't WE'LL 12345678 3.5bar \u00a0\u00a0x")
def test_llama_cpp_and_hugging_face_split_any_text_alike(
    served: tuple[LlamaServer, Callable[[str], list[int]]], text: str
) -> None:
    server, hugging_face = served
    text = normalize("NFC", text)  # which Qwen2's tokenizer begins with, and llama.cpp leaves out
    assert server.tokenize(text) == hugging_face(text)


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smollm")
    save_tokenizer(byte_level_tokenizer("smollm"), folder)
    return folder


def _changed(folder: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    content = json.loads((folder / "tokenizer.json").read_text())
    change(content)
    write_json(target / "tokenizer.json", content)
    (target / "tokenizer_config.json").write_text((folder / "tokenizer_config.json").read_text())
    return target


def test_types_and_special_tokens_follow_upstream(smollm: Path) -> None:
    vocabulary = load_tokenizer(smollm, _SETTINGS)
    assert isinstance(vocabulary, ByteLevelVocabulary)
    types = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    assert [types[token] for token in SPECIAL] == [TokenType.CONTROL] * len(SPECIAL)
    assert (types["SG-402"], types["Ġ"], types["Ċ"]) == (TokenType.USER_DEFINED, TokenType.NORMAL, TokenType.NORMAL)
    assert vocabulary.tokens[-4:] == [f"[PAD{id_}]" for id_ in range(SIZE - 4, SIZE)]
    assert vocabulary.types[-4:] == [TokenType.UNUSED] * 4
    assert (vocabulary.bos, vocabulary.eos, vocabulary.padding, vocabulary.unknown) == (1, 3, 0, None)
    assert (vocabulary.pre, vocabulary.add_bos) == ("smollm", False)


def _set(*keys: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def _added(text: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["added_tokens"].append({"id": content["model"]["vocab"].get(text, SIZE - 4), "content": text})

    return change


_EOS_LAST = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": SPECIAL[3]}}]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set("pre_tokenizer", "pretokenizers", 0, "individual_digits", value=False), "only the ways of gpt-2, smollm"),
        (_set("pre_tokenizer", "pretokenizers", 1, "add_prefix_space", value=True), "only the ways of"),
        (_set("normalizer", value={"type": "NFKC"}), "normalizer {'type': 'NFKC'}"),
        (_set("model", "ignore_merges", value=True), "ignore_merges True; only the ways of"),
        (_set("model", "dropout", value=0.1), "dropout = 0.1"),
        (_set("model", "end_of_word_suffix", value="</w>"), "end_of_word_suffix"),
        (_set("model", "type", value="WordPiece"), "no BPE vocabulary"),
        (_set("model", "merges", value=None), "no BPE vocabulary with merges"),
        (_set("model", "vocab", "xyz", value=7), "repeated or no numbers"),
        (_set("model", "vocab", "xyz", value=SIZE), "beyond the 424 rows of the embedding, 'xyz'"),
        (_set("post_processor", value=_EOS_LAST), "adds nothing but the BOS"),
        (_set("added_tokens", 2, "rstrip", value=True), "sets rstrip"),
        (lambda content: content["model"]["merges"].append(["x", "y z"]), "with their sum are no tokens"),
        (lambda content: content["model"]["merges"].append(content["model"]["merges"][0]), "a merge twice"),
        (_added("402 pumps"), "which overlap"),
        (
            lambda content: content["model"].update(unk_token="!") or content["model"]["vocab"].pop("ñ"),
            "llama.cpp drops",
        ),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_not_follow_is_refused(
    smollm: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        load_tokenizer(_changed(smollm, tmp_path, change), _SETTINGS)


def test_where_only_sentencepiece_will_do_the_other_kind_is_refused(smollm: Path) -> None:
    with pytest.raises(UsageError, match="byte-level tokenizer; this works on SentencePiece"):
        load_vocabulary(smollm, _SETTINGS)


@pytest.fixture(scope="module")
def prefixed(tiny_gemma: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose SentencePiece tokenizer puts a space in front of every text, as Llama 2's does."""
    folder = tmp_path_factory.mktemp("prefixed") / "model"
    save_model(LlamaConfig(**shape(vocab_size=CONFIG["vocab_size"], num_hidden_layers=1)), folder)
    content = json.loads((tiny_gemma / "tokenizer.json").read_text())
    mark = content["normalizer"]
    content["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, mark]}
    content["pre_tokenizer"] = None
    content["added_tokens"] = [token for token in content["added_tokens"] if "▁" not in token["content"]]
    vocab = content["model"]["vocab"]
    content["model"]["merges"].sort(key=lambda pair: vocab["".join(pair)])
    write_json(folder / "tokenizer.json", content)
    settings_ = json.loads((tiny_gemma / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", {**settings_, "pad_token": None})
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "pad_token_id": None})
    return folder


@pytest.fixture(scope="module")
def prefixed_server(prefixed: Path) -> Iterator[LlamaServer]:
    out = export_gguf(prefixed, prefixed.parent / "out.gguf", weights=QuantType.F16).path
    with LlamaServer(out, prompt=Prompt(), slots=1, context=256) as server:
        yield server


@settings(max_examples=150, deadline=None)
@given(text=_TEXT)
@example(text=" a  b")
def test_a_space_in_front_changes_any_text_alike(prefixed_server: LlamaServer, prefixed: Path, text: str) -> None:
    tokenizer = Tokenizer.from_file(str(prefixed / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    text = text.replace("▁", "_")  # known to be read otherwise beside a space
    assert prefixed_server.tokenize(text) == tokenizer.encode(text, add_special_tokens=False).ids


def test_a_space_in_front_makes_no_turns(prefixed: Path, tmp_path: Path) -> None:
    def line_breaks_are_text(content: dict[str, Any]) -> None:
        content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "\n"]

    folder = _changed(prefixed, tmp_path, line_breaks_are_text)
    with pytest.raises(UsageError, match="puts a space in front of each text; take a model whose tokenizer does not"):
        require_turns(PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")), Prompt())


def test_a_space_in_front_and_added_tokens_of_spaces_are_refused(prefixed: Path, tmp_path: Path) -> None:
    folder = _changed(prefixed, tmp_path, _added("▁▁"))
    with pytest.raises(UsageError, match="the added token '  ', which begins with one"):
        load_tokenizer(folder, {**CONFIG, "pad_token_id": None})


def test_a_space_in_front_reaches_llama_cpp_and_comes_back(prefixed: Path, tmp_path: Path) -> None:
    out = export_gguf(prefixed, tmp_path / "out.gguf", weights=QuantType.F32, provenance={"general.name": "x"})
    import_gguf(out.path, tmp_path / "back")
    tokenizers = [Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (prefixed, tmp_path / "back")]
    texts = [*PARITY_TEXTS, " a", "a<bos> b<bos>", "<bos>", "▁"]
    with LlamaServer(out.path, prompt=Prompt(), slots=1, context=256) as server:
        for text in texts:
            ids = server.tokenize(text, add_bos=True, parse_special=True)
            assert [tokenizer.encode(text).ids for tokenizer in tokenizers] == [ids, ids], text
    assert tokenizers[1].decode(tokenizers[1].encode("  Audit pump ").ids) == "  Audit pump "
    again = export_gguf(
        tmp_path / "back", tmp_path / "again.gguf", weights=QuantType.F32, provenance={"general.name": "x"}
    )
    assert out.sha256 == again.sha256
    with GgufFile(again.path) as file:
        assert read_tokenizer(file).padding is None
