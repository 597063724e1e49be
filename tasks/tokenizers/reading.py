"""The vocabulary as GGUF stores it, made from tokenizer.json or, where there is none, from tokenizer.model.

Upstream's converter needs tokenizer.model and takes a wrong path without a word where only tokenizer.json
exists, which is what transformers saves. Pieces, scores and types are all in tokenizer.json; what they cannot
express is refused.
"""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from gguf.constants import TokenType

from registry.errors import UsageError
from tasks.checkpoints.files import MAX_TOKENIZER, read_json, shown
from tasks.tokenizers.byte_level import from_byte_level, is_byte_level
from tasks.tokenizers.merges import MERGEABLE, check_merges
from tasks.tokenizers.sentencepiece_model import read_pieces
from tasks.tokenizers.special_tokens import (
    SpecialIds,
    added_tokens,
    adds_bos,
    check_overlaps,
    looks_special,
    overlay,
    unused,
)
from tasks.tokenizers.vocabulary import BYTES, ByteLevelVocabulary, Vocabulary, check_pieces, check_prefix

SPACE_MARK = "▁"
ADDED_TOKEN_SCORE = -1000.0
UNUSED_SCORE = -10_000.0
SPACE_TO_MARK = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
# Llama 2's: every text between control tokens begins with a space, even where it has one
SPACE_PREFIX = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE_MARK}, SPACE_TO_MARK]}
_NORMAL, _USER_DEFINED = int(TokenType.NORMAL), int(TokenType.USER_DEFINED)  # an enum's member takes 0.1 µs
_SCORES: dict[int, float] = {  # of all but normal pieces
    TokenType.UNUSED: UNUSED_SCORE,
    TokenType.BYTE: 0.0,
    TokenType.CONTROL: ADDED_TOKEN_SCORE,
    TokenType.USER_DEFINED: ADDED_TOKEN_SCORE,
}
_NO_SUCH_OPTIONS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")  # of llama.cpp

_Lists = tuple[list[str], list[float], list[int]]  # tokens, scores, types


def load_tokenizer(model_dir: Path, config: Mapping[str, Any]) -> Vocabulary | ByteLevelVocabulary:
    """The vocabulary of ``model_dir``, as long as its embedding.

    As upstream does, one that is too long is cut where only added tokens are lost, and one that is too short
    is filled with unused tokens. Raises UsageError where the tokenizer is missing, of another kind, or does
    what llama.cpp would not.
    """
    file, size = model_dir / "tokenizer.json", config["vocab_size"]
    settings_file = model_dir / "tokenizer_config.json"
    settings = read_json(settings_file) if settings_file.exists() else {}

    def special(tokens: Sequence[str]) -> SpecialIds:
        return SpecialIds(settings=settings, config=config, tokens=tokens)

    if not file.exists():
        return _sentencepiece(_from_sentencepiece(model_dir, settings_file, settings, size), special)
    with _no_garbage_collection():
        return _load_json(file, size, special)


def _load_json(
    file: Path, size: int, special: Callable[[Sequence[str]], SpecialIds]
) -> Vocabulary | ByteLevelVocabulary:
    content = read_json(file, MAX_TOKENIZER)
    if is_byte_level(content):
        return from_byte_level(file, content, size, special)
    vocabulary = _sentencepiece(_from_tokenizer_json(file, content, size), special)
    vocabulary = replace(
        vocabulary,
        space_prefix=content["normalizer"] == SPACE_PREFIX,
        add_bos=adds_bos(file, content, vocabulary.tokens[vocabulary.bos]),
    )
    check_prefix(file, vocabulary)
    return vocabulary


def load_vocabulary(model_dir: Path, config: Mapping[str, Any]) -> Vocabulary:
    """The same where only SentencePiece's kind will do; raises UsageError for the other."""
    vocabulary = load_tokenizer(model_dir, config)
    if not isinstance(vocabulary, Vocabulary):
        raise UsageError(
            f"{model_dir} has a byte-level tokenizer; this works on SentencePiece vocabularies, such as Gemma's, alone."
        )
    return vocabulary


def _sentencepiece(lists: _Lists, special: Callable[[Sequence[str]], SpecialIds]) -> Vocabulary:
    tokens, scores, types = lists
    ids = special(tokens)
    return Vocabulary(
        tokens=tokens,
        scores=scores,
        types=types,
        bos=ids.require("bos"),
        eos=ids.require("eos"),
        unknown=ids.require("unk"),
        padding=ids.find("pad"),
    )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """The collector would walk over half a million lists of merges again and again, and find nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _from_tokenizer_json(path: Path, content: Mapping[str, Any], size: int) -> _Lists:
    model, added = content.get("model"), content.get("added_tokens")
    if not isinstance(model, Mapping) or not isinstance(added, list):
        raise UsageError(f"{path} is no tokenizer.json: it lacks its model or its added tokens.")
    _check_kind(path, content, model)
    own = added_tokens(path, added)
    pieces: dict[int, str] = {id_: piece for piece, id_ in model["vocab"].items() if type(id_) is int}
    if len(pieces) != len(model["vocab"]) or (pieces and min(pieces) < 0):
        raise UsageError(f"{path} has a vocabulary with ids that are repeated or no numbers.")
    lost = [piece for id_, piece in pieces.items() if id_ >= size and id_ not in own]
    if lost:
        raise UsageError(f"{path} has pieces beyond the {size} rows of the embedding, {shown(lost[0])} among them.")
    tokens, types = unused(size)
    for id_, piece in pieces.items():
        if id_ < size:
            tokens[id_], types[id_] = piece, _NORMAL
    for piece in BYTES & model["vocab"].keys():
        if (id_ := model["vocab"][piece]) < size:
            types[id_] = int(TokenType.BYTE)
    overlay(path, own, tokens, types)
    first = types.index(_NORMAL) if _NORMAL in types else 0
    scores = [-float(id_ - first) if type_ == _NORMAL else _SCORES[type_] for id_, type_ in enumerate(types)]
    stored = _as_stored(tokens, types)
    check_pieces(path, stored, scores, types)
    check_overlaps(path, stored, types)
    check_merges(path, model["merges"], tokens, types)
    return stored, scores, types


def _check_kind(path: Path, content: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Refuse what is no SentencePiece BPE without a prefix space: llama.cpp would split otherwise."""
    vocab, pairs = model.get("vocab"), model.get("merges")
    if model.get("type") != "BPE" or not model.get("byte_fallback"):
        raise UsageError(
            f"{path} holds a {shown(model.get('type'))} tokenizer, byte fallback {shown(model.get('byte_fallback'))}; "
            "only BPE with byte fallback, or of bytes, can be converted."
        )
    if not isinstance(vocab, Mapping) or not isinstance(pairs, list):
        raise UsageError(f"{path} has no vocabulary or no merges.")
    if content.get("normalizer") not in (SPACE_TO_MARK, SPACE_PREFIX):
        raise UsageError(
            f"{path} has the normalizer {shown(content.get('normalizer'))}; llama.cpp does nothing but "
            f"replace a space by {SPACE_MARK}, and put one in front."
        )
    if option := next((option for option in _NO_SUCH_OPTIONS if model.get(option)), None):
        raise UsageError(f"{path} sets {option} = {shown(model[option])}, which llama.cpp does not do.")
    splitter = content.get("pre_tokenizer")
    if splitter is not None and (
        not isinstance(splitter, Mapping)
        or (splitter.get("type"), splitter.get("pattern")) != ("Split", {"String": " "})
    ):
        raise UsageError(
            f"{path} has the pre-tokenizer {shown(splitter)}; llama.cpp does not split a text before it merges pieces."
        )


def _from_sentencepiece(model_dir: Path, settings_file: Path, settings: Mapping[str, Any], size: int) -> _Lists:
    file = model_dir / "tokenizer.model"
    if not file.exists():
        raise UsageError(f"{model_dir} has neither tokenizer.json nor tokenizer.model; save its tokenizer there.")
    tokens, types = unused(size)
    scores = [UNUSED_SCORE] * size
    pieces = read_pieces(file)
    lost = [piece.text for piece in pieces[size:] if piece.type in MERGEABLE]
    if lost:
        raise UsageError(f"{file} has pieces beyond the {size} rows of the embedding, {shown(lost[0])} among them.")
    for id_, piece in enumerate(pieces[:size]):
        special = piece.type in (TokenType.CONTROL, TokenType.UNKNOWN) or looks_special(piece.text)
        types[id_] = TokenType.CONTROL if special else piece.type
        added = types[id_] in (TokenType.CONTROL, TokenType.USER_DEFINED)
        tokens[id_], scores[id_] = piece.text, ADDED_TOKEN_SCORE if added else piece.score
    decoder = _decoder_items(settings_file, settings.get("added_tokens_decoder", {}))
    for id_ in overlay(settings_file, added_tokens(settings_file, decoder), tokens, types):
        scores[id_] = ADDED_TOKEN_SCORE
    stored = _as_stored(tokens, types)
    check_pieces(file, stored, scores, types)
    return stored, scores, types


def _decoder_items(path: Path, decoder: Any) -> list[Any]:
    """``added_tokens_decoder`` of tokenizer_config.json in the form of tokenizer.json."""
    if not isinstance(decoder, Mapping) or not all(id_.isdecimal() and len(id_) < 10 for id_ in decoder):
        raise UsageError(f"{path} has an added_tokens_decoder whose keys are no token ids.")
    return [{**item, "id": int(id_)} if isinstance(item, Mapping) else item for id_, item in decoder.items()]


def _as_stored(tokens: list[str], types: list[int]) -> list[str]:
    """llama.cpp looks for user-defined tokens in the raw text, where a space is a space."""
    return [
        token.replace(SPACE_MARK, " ") if type_ == _USER_DEFINED else token
        for token, type_ in zip(tokens, types, strict=True)
    ]
