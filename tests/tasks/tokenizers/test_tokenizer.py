import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from gguf.constants import TokenType
from gguf_samples import CONFIG, SENTENCES, write_json
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console
from tokenizers import Tokenizer

from deployment.prompts.prompt import Message, Prompt
from deployment.prompts.turns import Turns
from deployment.runtimes.llama_server import LlamaServer
from registry.errors import UsageError
from tasks.gguf.container import GgufFile
from tasks.gguf.stored_tokenizer import read_tokenizer
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType
from tasks.tokenizers.reading import load_vocabulary
from tasks.verification.verify import PARITY_TEXTS

START, END = Turns.GEMMA.form.control
# Known to be read otherwise by llama.cpp: a literal U+2581 beside a space or another one.
_KNOWN = re.compile(r"[ ▁]▁|▁[ ▁]")
_SPACES = st.tuples(st.sampled_from(["", "a", "▁"]), st.integers(1, 300), st.sampled_from(["", "b", "\n"])).map(
    lambda parts: parts[0] + " " * parts[1] + parts[2]
)
_TEXT = st.one_of(st.text(max_size=60), _SPACES).filter(lambda text: not _KNOWN.search(text))
_AUDIT_TEXT = st.lists(
    st.sampled_from([*" \n\t.,:{}\"'0123456789äΔ检", *" ".join(SENTENCES).split(), "  ", "   ", "<0x0A>"]),
    max_size=25,
).map("".join)


@pytest.fixture(scope="module")
def server(tiny_gemma: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    out = tmp_path_factory.mktemp("served") / "tiny.gguf"
    export_gguf(tiny_gemma, out, weights=QuantType.F16)
    with LlamaServer(out, prompt=Prompt(), threads=1, slots=1, context=256) as running:
        yield running


@pytest.fixture(scope="module")
def hf(tiny_gemma: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(tiny_gemma / "tokenizer.json"))
    tokenizer.encode_special_tokens = True  # a control token in a text stays text
    return tokenizer


@settings(max_examples=150, deadline=None)
@given(text=st.one_of(_TEXT, _AUDIT_TEXT))
@example(text=f"{START}user\n{END}<bos><eos><unk>")
@example(text="  a   b    c")
@example(text="\x00")
@example(text="a▁pump▁")
def test_llama_cpp_and_hugging_face_split_any_text_alike(server: LlamaServer, hf: Tokenizer, text: str) -> None:
    assert server.tokenize(text) == hf.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("text", PARITY_TEXTS)
def test_the_parity_texts_split_alike(server: LlamaServer, hf: Tokenizer, text: str) -> None:
    assert server.tokenize(text) == hf.encode(text, add_special_tokens=False).ids


@settings(max_examples=200, deadline=None)
@given(text=_AUDIT_TEXT)
def test_tokenizer_json_splits_as_the_sentencepiece_model_it_came_from(
    sentencepiece_model: Path, hf: Tokenizer, text: str
) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model))
    assert hf.encode(text, add_special_tokens=False).ids == reference.encode(text)


@pytest.fixture(scope="module")
def extended(tiny_gemma: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with tokens that a user added, and as Google's with one beyond the embedding."""
    folder = tmp_path_factory.mktemp("extended") / "model"
    shutil.copytree(tiny_gemma, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    content["added_tokens"] += [
        {"id": 412, "content": "SG-402", "normalized": True, "special": False, **flags},
        {"id": 413, "content": "cooling pump", "normalized": False, "special": False, **flags},
        {"id": 415, "content": "<audit>", "normalized": False, "special": True, **flags},
        {"id": 416, "content": "<image_soft_token>", "normalized": False, "special": True, **flags},
    ]
    write_json(folder / "tokenizer.json", content)
    return folder


@pytest.fixture(scope="module")
def extended_server(extended: Path) -> Iterator[LlamaServer]:
    out = export_gguf(extended, extended.parent / "extended.gguf", weights=QuantType.F16).path
    with LlamaServer(out, prompt=Prompt(), threads=1, slots=1, context=256) as running:
        yield running


@settings(max_examples=100, deadline=None)
@given(
    text=st.lists(
        st.one_of(
            _AUDIT_TEXT, st.sampled_from(["SG-402", "cooling pump", "SG-", "402", "<audit>", "<image_soft_token>"])
        ),
        max_size=8,
    ).map("".join)
)
def test_added_tokens_split_alike(extended_server: LlamaServer, extended: Path, text: str) -> None:
    hf = Tokenizer.from_file(str(extended / "tokenizer.json"))
    hf.encode_special_tokens = True
    assert extended_server.tokenize(text) == hf.encode(text, add_special_tokens=False).ids


def test_texts_in_one_request_have_the_ids_of_each(server: LlamaServer) -> None:
    texts = ["", "Audit pump", "", "<bos>", " ", "\n"] * 150
    assert server.tokenize_all(texts, 2) == [server.tokenize(text) for text in texts[:6]] * 150


def test_made_up_texts_of_the_benchmark_split_alike(extended: Path) -> None:
    from tests.benchmarks import tokenizer_parity

    assert tokenizer_parity.compare(extended, list(tokenizer_parity.made_up_texts(400)), Console(quiet=True)) == 0


def test_a_chat_prompt_has_one_bos_and_control_tokens_for_its_turns(server: LlamaServer) -> None:
    ids = server.chat_template_ids([Message("user", "check the pump")])
    assert ids == server.tokenize_prompt("check the pump")
    assert (ids[0], ids.count(2), ids.count(4), ids.count(5)) == (2, 1, 2, 1)


def test_tokenizer_json_tokenizer_model_and_gguf_give_the_same_vocabulary(
    tiny_gemma: Path, sentencepiece_model: Path, tmp_path: Path
) -> None:
    shutil.copy(sentencepiece_model, tmp_path / "tokenizer.model")
    shutil.copy(tiny_gemma / "tokenizer_config.json", tmp_path)
    from_model, from_json = load_vocabulary(tmp_path, CONFIG), load_vocabulary(tiny_gemma, CONFIG)

    export_gguf(tiny_gemma, tmp_path / "out.gguf", weights=QuantType.F32)
    with GgufFile(tmp_path / "out.gguf") as file:
        assert from_json == from_model == read_tokenizer(file)
    assert from_json.types[:6] == [TokenType.CONTROL] * 6


def test_types_and_scores_follow_upstream(tiny_gemma: Path) -> None:
    vocabulary = load_vocabulary(tiny_gemma, CONFIG)
    by_token = dict(zip(vocabulary.tokens, zip(vocabulary.types, vocabulary.scores, strict=True), strict=True))
    assert by_token[START] == (TokenType.CONTROL, -1000.0)
    assert by_token["  "] == (TokenType.USER_DEFINED, -1000.0)
    assert by_token["<0x0A>"] == (TokenType.BYTE, 0.0)
    normal = [score for type_, score in by_token.values() if type_ == TokenType.NORMAL]
    assert normal == [-float(rank) for rank in range(len(normal))]


def test_an_embedding_longer_than_the_vocabulary_is_filled_with_unused_tokens(tiny_gemma: Path) -> None:
    vocabulary = load_vocabulary(tiny_gemma, CONFIG | {"vocab_size": 420})
    assert vocabulary.tokens[-4:] == ["[PAD416]", "[PAD417]", "[PAD418]", "[PAD419]"]
    assert vocabulary.types[-4:] == [TokenType.UNUSED] * 4
    assert vocabulary.scores[-4:] == [-10_000.0] * 4


def _changed(tiny_gemma: Path, tmp_path: Path, change: Any) -> Path:
    content = json.loads((tiny_gemma / "tokenizer.json").read_text())
    change(content)
    write_json(tmp_path / "tokenizer.json", content)
    return tmp_path


def test_an_added_token_beyond_the_embedding_is_left_out_and_a_piece_is_refused(
    tiny_gemma: Path, tmp_path: Path
) -> None:
    image = {"id": 416, "content": "<image_soft_token>", "special": True}
    folder = _changed(tiny_gemma, tmp_path, lambda content: content["added_tokens"].append(image))
    assert "<image_soft_token>" not in load_vocabulary(folder, CONFIG).tokens

    folder = _changed(tiny_gemma, tmp_path, lambda content: content["model"]["vocab"].update(xyz=416))
    with pytest.raises(UsageError, match="beyond the 416 rows of the embedding, 'xyz'"):
        load_vocabulary(folder, CONFIG)


def _set(*keys: str | int, value: object) -> Any:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def _added(*texts: str, first: int = CONFIG["vocab_size"] - 4) -> Any:
    def change(content: dict[str, Any]) -> None:
        content["added_tokens"] += [{"id": first + place, "content": text} for place, text in enumerate(texts)]

    return change


def test_an_added_token_beyond_the_embedding_that_a_text_can_become_is_refused(
    tiny_gemma: Path, tmp_path: Path
) -> None:
    folder = _changed(tiny_gemma, tmp_path, _added("SG-402", first=CONFIG["vocab_size"]))
    with pytest.raises(UsageError, match=r"added token 'SG-402' \(id 416\) beyond the 416 rows"):
        load_vocabulary(folder, CONFIG)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set("model", "type", value="WordPiece"), "'WordPiece' tokenizer"),
        (_set("model", "byte_fallback", value=False), "byte fallback False"),
        (_set("normalizer", value={"type": "NFC"}), "normalizer .*NFC"),
        (_set("pre_tokenizer", value={"type": "ByteLevel"}), "sets byte_fallback = True, which"),
        (_set("model", value=None), "lacks its model"),
        (_set("model", "merges", value=None), "no vocabulary or no merges"),
        (_set("added_tokens", value=[{"content": "x"}]), "added token .*, without an id"),
        (_set("model", "vocab", "xyz", value=7), "repeated"),
        (_set("model", "vocab", "xyz", value=-1), "repeated or no numbers"),
        (_set("model", "vocab", "xyz", value="7"), "repeated or no numbers"),
        (_set("model", "dropout", value=0.1), "sets dropout = 0.1"),
        (_set("model", "ignore_merges", value=True), "sets ignore_merges = True"),
        (_set("model", "vocab", value={}), "byte token for each of <0x00> to <0xFF>"),
        (_set("added_tokens", 4, "rstrip", value=True), "sets rstrip for the added token '<start_of_turn>'"),
        (_added("SG-40", "40-XYZ"), "'SG-40' and '40-XYZ', which overlap"),
        (_added("pump"), "the token 'pump' more than once|would differ"),
        (lambda content: content["model"]["merges"].pop(), "would differ in joining"),
        (
            lambda content: content["model"]["merges"].append(["a", "0"]),
            "would differ in joining 'a' and '0'",
        ),
        (lambda content: content["model"]["merges"].append(3), "merges"),
        (lambda content: content["model"]["merges"].reverse(), "another order than its ids"),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_not_follow_is_refused(
    tiny_gemma: Path, tmp_path: Path, change: Any, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        load_vocabulary(_changed(tiny_gemma, tmp_path, change), CONFIG)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        load_vocabulary(tmp_path, CONFIG)


def test_a_tokenizer_without_bos_is_refused(tiny_gemma: Path, tmp_path: Path) -> None:
    folder = _changed(tiny_gemma, tmp_path, lambda content: content)
    write_json(folder / "tokenizer_config.json", {"bos_token": "<none>"})
    with pytest.raises(UsageError, match="no bos token"):
        load_vocabulary(folder, {"vocab_size": 416})


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_tokenizer_model_is_read_or_refused(
    sentencepiece_model: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(sentencepiece_model.read_bytes())
    content = content[: data.draw(st.integers(0, len(content)))]
    for position in data.draw(st.lists(st.integers(0, max(0, len(content) - 1)), max_size=5)):
        if content:
            content[position] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "tokenizer.model").write_bytes(content)
    try:
        load_vocabulary(folder, CONFIG)
    except UsageError as error:
        assert "tokenizer.model" in str(error) or "token:" in str(error)


def test_a_unigram_model_is_refused(tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type="unigram",
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(UsageError, match="not a BPE model without a prefix space"):
        load_vocabulary(tmp_path, CONFIG)
