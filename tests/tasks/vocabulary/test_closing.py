"""A closed set of tokens: every text whose tokens are in it is tokenised as before, in the way of either runtime."""

import json
from collections.abc import Sequence

import pytest
from gguf.constants import TokenType
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from vocabulary_samples import SPECIAL, base_with, by_rank, by_score, vocabulary_with

from tasks.tokenizers.tokenizer_json import tokenizer_json
from tasks.tokenizers.vocabulary import Vocabulary
from tasks.vocabulary.base import BaseVocabulary, vocabulary_of
from tasks.vocabulary.closing import close
from tasks.vocabulary.remapping import remapped_tokenizer

_ALPHABET = "ab▁"
_LONGER = st.text(_ALPHABET, min_size=2, max_size=5)
# Longer pieces in any order, then the characters, as Gemma's.
_PIECES = st.lists(_LONGER, max_size=20, unique=True).map(lambda longer: [*longer, *_ALPHABET])
_TEXTS = st.lists(st.text("ab c", max_size=14), min_size=1, max_size=12)


def pruned(pieces: Sequence[str], kept: set[int]) -> tuple[Vocabulary, dict[int, int]]:
    """The vocabulary of the kept ids in their order, and old id -> new id."""
    whole = vocabulary_with(pieces)
    new_ids = {old: new for new, old in enumerate(sorted(kept))}
    part = Vocabulary(
        tokens=[whole.tokens[old] for old in new_ids],
        scores=[whole.scores[old] for old in new_ids],
        types=[whole.types[old] for old in new_ids],
        bos=new_ids[whole.bos],
        eos=new_ids[whole.eos],
        unknown=new_ids[whole.unknown],
        padding=new_ids[whole.padding],
    )
    return part, new_ids


def kept_for(base: BaseVocabulary, used: Sequence[int]) -> set[int]:
    return close(base.structure | set(used), base)


@settings(max_examples=150)
@given(pieces=_PIECES, counted=_TEXTS, others=_TEXTS)
def test_texts_of_kept_tokens_keep_them_by_rank(pieces: list[str], counted: list[str], others: list[str]) -> None:
    base = base_with(pieces)
    before = [by_rank(base.tokenizer, text) for text in counted + others]
    kept = kept_for(base, [id_ for ids in before[: len(counted)] for id_ in ids])
    new_ids = pruned(pieces, kept)[1]
    tokenizer = remapped_tokenizer(base.tokenizer, new_ids)
    for text, ids in zip(counted + others, before, strict=True):
        if kept.issuperset(ids):
            assert by_rank(tokenizer, text) == [new_ids[id_] for id_ in ids], text


@settings(max_examples=150)
@given(pieces=_PIECES, counted=_TEXTS, others=_TEXTS)
def test_texts_of_kept_tokens_keep_them_by_score(pieces: list[str], counted: list[str], others: list[str]) -> None:
    base, whole = base_with(pieces), vocabulary_with(pieces)
    before = [by_score(whole, text) for text in counted + others]
    kept = kept_for(base, [id_ for ids in before[: len(counted)] for id_ in ids])
    part, new_ids = pruned(pieces, kept)
    for text, ids in zip(counted + others, before, strict=True):
        if kept.issuperset(ids):
            assert by_score(part, text) == [new_ids[id_] for id_ in ids], text


@settings(max_examples=100)
@given(pieces=_PIECES, counted=_TEXTS, text=st.text(max_size=30))
def test_any_text_comes_back_from_its_tokens(pieces: list[str], counted: list[str], text: str) -> None:
    base = base_with(pieces)
    kept = kept_for(base, [id_ for item in counted for id_ in by_rank(base.tokenizer, item)])
    tokenizer = Tokenizer.from_str(json.dumps(remapped_tokenizer(base.tokenizer, pruned(pieces, kept)[1])))
    tokenizer.encode_special_tokens = True
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text.replace("▁", " ")


def test_a_token_brings_the_pieces_by_which_it_comes_about_and_no_others() -> None:
    # "bc" is merged first, so (ab, cd) and (abc, d) never join, though the merges list them.
    base = base_with(["bc", "bcd", "abcd", "ab", "abc", "cd", *"abcd"])
    found = {base.pieces[id_] for id_ in close({base.ids["abcd"]}, base)}
    assert found == {"abcd", "bcd", "bc", *"abcd"}


def test_what_is_found_in_the_text_as_it_is_needs_no_further_piece() -> None:
    base = base_with(["un", "used", "unused", *"unsed<>0x1"])
    special, byte = base.ids["<unused0>"], base.ids["<0x41>"]
    assert close({special, byte}, base) == {special, byte}


def test_structure_is_special_tokens_bytes_and_common_characters() -> None:
    base = base_with(["ab", "a", "b", "▁", "é", "Ω", "≥", "ж", "検", "😀"])
    kept = {base.pieces[id_] for id_ in base.structure}
    assert set(SPECIAL) - kept == {"<start_of_turn>", "<unused0>"}  # a prompt brings its own turns
    assert {f"<0x{byte:02X}>" for byte in range(256)} <= kept
    assert kept & set(base.ids) - {piece for piece in kept if piece.startswith("<")} == {"a", "b", "▁", "é", "Ω", "≥"}


@pytest.mark.parametrize("run", ["  ", "\n\n\n", "\t"])
def test_runs_of_white_space_are_structure(run: str) -> None:
    vocabulary = vocabulary_with(["a"])
    vocabulary.tokens.append(run)
    vocabulary.types.append(int(TokenType.USER_DEFINED))
    vocabulary.scores.append(-1000.0)
    size = len(vocabulary.tokens)
    base = vocabulary_of(tokenizer_json(vocabulary), vocabulary, {"vocab_size": size, "eos_token_id": 1})
    assert size - 1 in base.structure
