"""The vocabulary as GGUF stores it, made from tokenizer.json or, where there is none, from tokenizer.model.

Upstream's converter needs tokenizer.model and takes a wrong path without a word where only tokenizer.json
exists, which is what transformers saves. Pieces, scores and types are all in tokenizer.json; what they cannot
express is refused.
"""

import gc
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gguf.constants import TokenType

from registry.errors import UsageError
from tasks.gguf_export.files import MAX_TOKENIZER, read_json, shown
from tasks.gguf_export.merges import MERGEABLE, check_merges
from tasks.gguf_export.sentencepiece_model import read_pieces
from tasks.gguf_export.vocabulary import Vocabulary, check_pieces

SPACE_MARK = "▁"
ADDED_TOKEN_SCORE = -1000.0
UNUSED_SCORE = -10_000.0
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# Control tokens that Gemma's files do not always mark as special; the list is upstream's.
_LOOKS_SPECIAL = re.compile(r"<pad>|<mask>|<2mass>|\[@BOS@\]|<unused.*>|<\|.*\|>|<(start|end)_of_turn>", re.DOTALL)
_NO_SUCH_OPTIONS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")  # of llama.cpp
_NO_SUCH_FLAGS = ("single_word", "lstrip", "rstrip")


def load_vocabulary(model_dir: Path, config: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary of ``model_dir``, as long as its embedding.

    As upstream does, one that is too long is cut where only added tokens are lost, and one that is too short
    is filled with unused tokens. Raises UsageError where the tokenizer is missing, of another kind, or does
    what llama.cpp would not.
    """
    size = config["vocab_size"]
    if (model_dir / "tokenizer.json").exists():
        with _no_garbage_collection():
            tokens, scores, types = _from_tokenizer_json(model_dir / "tokenizer.json", size)
    elif (model_dir / "tokenizer.model").exists():
        tokens, scores, types = _from_sentencepiece(model_dir, size)
    else:
        raise UsageError(f"{model_dir} has neither tokenizer.json nor tokenizer.model; save its tokenizer there.")
    settings_file = model_dir / "tokenizer_config.json"
    settings = read_json(settings_file) if settings_file.exists() else {}
    ids = {token: id_ for id_, token in enumerate(tokens)}
    return Vocabulary(
        tokens=tokens,
        scores=scores,
        types=types,
        bos=_special_id("bos", settings, config, ids, default="<bos>"),
        eos=_special_id("eos", settings, config, ids, default="<eos>"),
        unknown=_special_id("unk", settings, config, ids, default="<unk>"),
        padding=_special_id("pad", settings, config, ids, default="<pad>"),
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


def _from_tokenizer_json(path: Path, size: int) -> tuple[list[str], list[float], list[int]]:
    content = read_json(path, MAX_TOKENIZER)
    model, added = content.get("model"), content.get("added_tokens")
    if not isinstance(model, Mapping) or not isinstance(added, list):
        raise UsageError(f"{path} is no tokenizer.json: it lacks its model or its added tokens.")
    _check_kind(path, content, model)
    added_tokens = _added_tokens(path, added)
    pieces: dict[int, str] = {id_: piece for piece, id_ in model["vocab"].items() if type(id_) is int}
    if len(pieces) != len(model["vocab"]) or (pieces and min(pieces) < 0):
        raise UsageError(f"{path} has a vocabulary with ids that are repeated or no numbers.")
    lost = [piece for id_, piece in pieces.items() if id_ >= size and id_ not in added_tokens]
    if lost:
        raise UsageError(f"{path} has pieces beyond the {size} rows of the embedding, {shown(lost[0])} among them.")
    tokens, scores, types = _unused(size)
    for id_, piece in pieces.items():
        if id_ < size:
            tokens[id_] = piece
            types[id_] = TokenType.BYTE if _BYTE.fullmatch(piece) else TokenType.NORMAL
            scores[id_] = 0.0
    _overlay(path, added_tokens, tokens, scores, types)
    normal = [id_ for id_, type_ in enumerate(types) if type_ == TokenType.NORMAL]
    for id_ in normal:
        scores[id_] = -float(id_ - normal[0])
    stored = _as_stored(tokens, types)
    check_pieces(path, stored, scores, types)
    _check_overlaps(
        path, [token for token, type_ in zip(stored, types, strict=True) if type_ == TokenType.USER_DEFINED]
    )
    check_merges(path, model["merges"], tokens, types)
    return stored, scores, types


def _check_kind(path: Path, content: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Refuse what is no SentencePiece BPE without a prefix space: llama.cpp would split otherwise."""
    vocab, pairs = model.get("vocab"), model.get("merges")
    if model.get("type") != "BPE" or not model.get("byte_fallback"):
        raise UsageError(
            f"{path} holds a {shown(model.get('type'))} tokenizer, byte fallback {shown(model.get('byte_fallback'))}; "
            "Gemma 3 needs BPE with byte fallback."
        )
    if not isinstance(vocab, Mapping) or not isinstance(pairs, list):
        raise UsageError(f"{path} has no vocabulary or no merges.")
    if content.get("normalizer") != {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}:
        raise UsageError(
            f"{path} has the normalizer {shown(content.get('normalizer'))}; llama.cpp does nothing but "
            f"replace a space by {SPACE_MARK}."
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


def _check_overlaps(path: Path, added: list[str]) -> None:
    """Refuse added tokens of which one ends as a longer one begins.

    Hugging Face takes the leftmost of them, llama.cpp the longest. Runs of one letter come out the same.
    """
    begins: dict[str, str] = {}
    for token in sorted(added, key=len):  # the longest that begins so is kept
        begins |= {token[:cut]: token for cut in range(1, len(token))}
    for token in added:
        for cut in range(1, len(token)):
            other = begins.get(token[cut:], "")
            if len(other) > len(token) and len({*token, *other}) > 1:
                raise UsageError(
                    f"{path} has the added tokens {shown(token)} and {shown(other)}, which overlap; Hugging Face and "
                    "llama.cpp would choose differently."
                )


def _from_sentencepiece(model_dir: Path, size: int) -> tuple[list[str], list[float], list[int]]:
    tokens, scores, types = _unused(size)
    pieces = read_pieces(model_dir / "tokenizer.model")
    lost = [piece.text for piece in pieces[size:] if piece.type in MERGEABLE]
    if lost:
        raise UsageError(
            f"{model_dir}/tokenizer.model has pieces beyond the {size} rows of the embedding, {shown(lost[0])} "
            "among them."
        )
    for id_, piece in enumerate(pieces[:size]):
        special = piece.type in (TokenType.CONTROL, TokenType.UNKNOWN) or _LOOKS_SPECIAL.fullmatch(piece.text)
        types[id_] = TokenType.CONTROL if special else piece.type
        added = types[id_] in (TokenType.CONTROL, TokenType.USER_DEFINED)
        tokens[id_], scores[id_] = piece.text, ADDED_TOKEN_SCORE if added else piece.score
    settings = model_dir / "tokenizer_config.json"
    decoder = read_json(settings).get("added_tokens_decoder", {}) if settings.exists() else {}
    _overlay(settings, _added_tokens(settings, _decoder_items(settings, decoder)), tokens, scores, types)
    stored = _as_stored(tokens, types)
    check_pieces(model_dir / "tokenizer.model", stored, scores, types)
    return stored, scores, types


def _decoder_items(path: Path, decoder: Any) -> list[Any]:
    """``added_tokens_decoder`` of tokenizer_config.json in the form of tokenizer.json."""
    if not isinstance(decoder, Mapping) or not all(id_.isdecimal() and len(id_) < 10 for id_ in decoder):
        raise UsageError(f"{path} has an added_tokens_decoder whose keys are no token ids.")
    return [{**item, "id": int(id_)} if isinstance(item, Mapping) else item for id_, item in decoder.items()]


def _overlay(
    path: Path, added: Mapping[int, tuple[str, bool]], tokens: list[str], scores: list[float], types: list[int]
) -> None:
    """Set the added tokens that the embedding has room for; refuse to lose one that a text can become."""
    for id_, (token, special) in added.items():
        if id_ >= len(tokens) and not special:
            raise UsageError(
                f"{path} has the added token {shown(token)} (id {id_}) beyond the {len(tokens)} rows of the embedding; "
                "enlarge the embedding or remove the token."
            )
        if id_ < len(tokens):
            tokens[id_], scores[id_] = token, ADDED_TOKEN_SCORE
            types[id_] = TokenType.CONTROL if special else TokenType.USER_DEFINED


def _added_tokens(path: Path, added: list[Any]) -> dict[int, tuple[str, bool]]:
    """Text and whether it is a control token, by id."""
    found: dict[int, tuple[str, bool]] = {}
    for item in added:
        match item:
            case {"id": int(id_), "content": str(text)} if type(id_) is int and id_ >= 0:
                if flag := next((flag for flag in _NO_SUCH_FLAGS if item.get(flag)), None):
                    raise UsageError(f"{path} sets {flag} for the added token {shown(text)}, which llama.cpp ignores.")
                if id_ in found:
                    raise UsageError(f"{path} has two added tokens of the id {id_}.")
                found[id_] = text, bool(item.get("special")) or _LOOKS_SPECIAL.fullmatch(text) is not None
            case _:
                raise UsageError(f"{path} has the added token {shown(item)}, without an id or a text.")
    return found


def _unused(size: int) -> tuple[list[str], list[float], list[int]]:
    return [f"[PAD{id_}]" for id_ in range(size)], [UNUSED_SCORE] * size, [int(TokenType.UNUSED)] * size


def _as_stored(tokens: list[str], types: list[int]) -> list[str]:
    """llama.cpp looks for user-defined tokens in the raw text, where a space is a space."""
    return [
        token.replace(SPACE_MARK, " ") if type_ == TokenType.USER_DEFINED else token
        for token, type_ in zip(tokens, types, strict=True)
    ]


def _special_id(
    name: str, settings: Mapping[str, Any], config: Mapping[str, Any], ids: Mapping[str, int], default: str
) -> int:
    token = settings.get(f"{name}_token", default)
    text = token.get("content") if isinstance(token, Mapping) else token
    if isinstance(text, str) and text in ids:
        return ids[text]
    configured = config.get(f"{name}_token_id")
    first = configured[0] if isinstance(configured, list) and configured else configured
    if type(first) is int and 0 <= first < config["vocab_size"]:
        return first
    raise UsageError(
        f"the tokenizer has no {name} token: it holds neither {shown(text)} nor {name}_token_id = {shown(configured)}."
    )
