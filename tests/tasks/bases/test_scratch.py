"""The base from scratch: its tokenizer against SentencePiece, its bytes against themselves."""

import re
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from gguf.constants import TokenType
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from deployment.prompts.prompt import Prompt, chat_template
from deployment.prompts.turns import Turns
from registry.artifacts import checksums
from registry.errors import UsageError
from registry.records import LabelSet, Record, Response, answer_text
from tasks.bases import scratch
from tasks.bases.scratch import build_scratch_base
from tasks.bases.spec import ScratchBase
from tasks.checkpoints.files import read_json
from tasks.checkpoints.loading import load_tokenizer
from tasks.tokenizers.reading import load_vocabulary
from tasks.training.models import load_model

START, END = Turns.GEMMA.form.control
SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", START, END]


def spec(**changes: object) -> ScratchBase:
    shape = {
        "kind": "scratch", "vocab_size": 448, "hidden_size": 64, "intermediate_size": 128, "layers": 2, "heads": 2,
        "kv_heads": 1, "head_dim": 32, "seed": 1,
    }  # fmt: skip
    return ScratchBase.model_validate(shape | changes)


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Any:
    return load_tokenizer(tiny_model_dir)


@pytest.fixture(scope="module")
def sentence_pieces(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record], labels: LabelSet
) -> sentencepiece.SentencePieceProcessor:
    """SentencePiece's own model of the same texts, which the folder does not keep."""
    prefix = tmp_path_factory.mktemp("sentencepiece") / "tokenizer"
    texts = [text for record in records for text in (record.command, answer_text(record.response, labels))]
    scratch._train_sentencepiece(texts, 448, prefix)
    return sentencepiece.SentencePieceProcessor(model_file=str(prefix.with_suffix(".model")))


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


def test_the_same_records_and_spec_give_the_same_bytes(
    tiny_model_dir: Path, tmp_path: Path, records: list[Record], labels: LabelSet
) -> None:
    build_scratch_base(spec(), records, labels, tmp_path / "again")
    assert checksums(tmp_path / "again") == checksums(tiny_model_dir)
    build_scratch_base(spec(seed=2), records, labels, tmp_path / "other")
    changed = set(checksums(tmp_path / "other").splitlines()) - set(checksums(tiny_model_dir).splitlines())
    assert [line.split()[1] for line in changed] == ["model.safetensors"]


def test_the_folder_holds_no_file_that_nobody_reads(tiny_model_dir: Path) -> None:
    assert sorted(path.name for path in tiny_model_dir.iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


def test_the_model_is_a_gemma_3_with_a_tied_embedding(tiny_model_dir: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_model_dir)
    assert config.architectures == ["Gemma3ForCausalLM"] and config.model_type == "gemma3_text"
    assert config.eos_token_id == [1, 5] and config.bos_token_id == 2 and config.pad_token_id == 0
    model = load_model(tiny_model_dir, bits=32)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_layers_follow_gemmas_pattern_of_five_local_and_one_global(
    tmp_path: Path, records: list[Record], labels: LabelSet
) -> None:
    build_scratch_base(spec(layers=7, hidden_size=32, intermediate_size=32), records, labels, tmp_path / "deep")
    layers = AutoConfig.from_pretrained(tmp_path / "deep").layer_types
    assert [kind == "full_attention" for kind in layers] == [False] * 5 + [True, False]


def test_special_tokens_have_gemmas_order(tokenizer: Any) -> None:
    assert tokenizer.convert_ids_to_tokens(range(6)) == SPECIALS
    turn = tokenizer.encode(f"{START}user\n", add_special_tokens=False)
    assert turn[0] == 4 and tokenizer.decode(turn) == f"{START}user\n"
    assert tokenizer.chat_template == chat_template(Prompt())


def test_each_digit_is_a_token_of_its_own(tokenizer: Any) -> None:
    vocabulary = tokenizer.get_vocab()
    mixed = [piece for piece in vocabulary if re.search(r"\d", piece) and len(piece) > 1 and "<0x" not in piece]
    assert mixed == []
    ids = plain_ids(tokenizer, "SG-40217 at 3.5 bar")
    assert [token for token in tokenizer.convert_ids_to_tokens(ids) if token.isdigit()] == list("4021735")


def test_a_character_that_no_record_had_falls_back_to_its_bytes(tokenizer: Any) -> None:
    text = "漢€🙂"
    tokens = tokenizer.convert_ids_to_tokens(plain_ids(tokenizer, text))
    assert tokens == [f"<0x{byte:02X}>" for byte in text.encode()]
    assert tokenizer.decode(plain_ids(tokenizer, text)) == text


def test_no_word_gets_a_space_in_front(tokenizer: Any) -> None:
    assert tokenizer.decode(plain_ids(tokenizer, "leak")) == "leak"
    assert not tokenizer.convert_ids_to_tokens(plain_ids(tokenizer, "leak"))[0].startswith("▁")


def test_tokens_are_sentencepieces_own(
    tokenizer: Any, sentence_pieces: sentencepiece.SentencePieceProcessor, records: list[Record], labels: LabelSet
) -> None:
    assert tokenizer.convert_ids_to_tokens(range(448)) == [sentence_pieces.id_to_piece(row) for row in range(448)]
    for record in records:
        for text in (record.command, answer_text(record.response, labels)):
            assert plain_ids(tokenizer, text) == sentence_pieces.encode(text)


@settings(max_examples=300)
@given(
    text=st.text(st.characters(codec="utf-8", exclude_characters="▁\0"), max_size=40)
    | st.text('audit the pump SG-0123456789 <start_of_turn>\n{}":,', max_size=80)
)
def test_any_text_has_the_tokens_that_sentencepiece_gives_it(
    tokenizer: Any, sentence_pieces: sentencepiece.SentencePieceProcessor, text: str
) -> None:
    ids = plain_ids(tokenizer, text)
    assert ids == sentence_pieces.encode(text)
    assert tokenizer.decode(ids) == text


def test_the_vocabulary_of_the_gguf_file_is_the_tokenizers(tiny_model_dir: Path, tokenizer: Any) -> None:
    vocabulary = load_vocabulary(tiny_model_dir, read_json(tiny_model_dir / "config.json"))
    assert len(vocabulary.tokens) == 448
    assert vocabulary.types[:6] == [TokenType.CONTROL] * 6
    assert vocabulary.types.count(TokenType.BYTE) == 256
    assert [tokenizer.convert_tokens_to_ids(token) for token in vocabulary.tokens[:262]] == list(range(262))
    assert (vocabulary.bos, vocabulary.eos, vocabulary.unknown, vocabulary.padding) == (2, 1, 3, 0)
    scores = vocabulary.scores[262:]
    assert scores == sorted(scores, reverse=True)


def test_a_vocabulary_larger_than_the_records_give_is_refused(
    tmp_path: Path, records: list[Record], labels: LabelSet
) -> None:
    with pytest.raises(UsageError, match=r"vocabulary of 4000 tokens .* these 48 records \(.*too high.*\); change"):
        build_scratch_base(spec(vocab_size=4000), records, labels, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_vocabulary_too_small_for_the_characters_is_refused(tmp_path: Path, labels: LabelSet) -> None:
    characters = "".join(chr(0x4E00 + number) for number in range(200))
    row = Record(command=characters, response=Response(intent="out_of_scope", entities={}))
    with pytest.raises(UsageError, match=r"vocabulary of 300 tokens can be trained on these 5 .*required_chars"):
        build_scratch_base(spec(vocab_size=300), [row] * 5, labels, tmp_path / "out")
