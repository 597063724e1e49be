"""Vocabularies as GGUF stores them, and what llama.cpp asks of one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from gguf.constants import TokenType

from registry.errors import UsageError
from tasks.checkpoints.files import shown

MAX_TOKENS = 1 << 20  # four times Gemma 3's
_MAX_LENGTH = 256  # characters; Gemma 3's longest piece has 31, Llama 3's and Qwen2's longest token 128
BYTES = {f"<0x{byte:02X}>" for byte in range(256)}


@dataclass(frozen=True, kw_only=True)
class _Vocabulary:
    """``tokenizer.ggml.*`` of either kind; the lists run by token id.

    ``add_bos``: one BOS goes before each text.
    """

    tokens: list[str]
    types: list[int]  # gguf.TokenType
    bos: int | None
    eos: int
    unknown: int | None
    padding: int | None
    add_bos: bool = True


@dataclass(frozen=True, kw_only=True)
class Vocabulary(_Vocabulary):
    """A SentencePiece vocabulary. ``space_prefix``: a text between control tokens gets a space in front, as Llama 2's
    does and Gemma's does not."""

    scores: list[float]
    bos: int
    unknown: int
    space_prefix: bool = False


@dataclass(frozen=True, kw_only=True)
class ByteLevelVocabulary(_Vocabulary):
    """A byte-level BPE vocabulary: its merges, best first, and llama.cpp's name for how it splits a text."""

    merges: list[tuple[str, str]]
    pre: str


def check_tokens(path: Path, tokens: Sequence[str], types: Sequence[int]) -> None:
    """Raise UsageError where llama.cpp would stop or read something else than ``path`` says.

    It aborts on repeated texts and ends a text at a NUL.
    """
    if len(tokens) != len(types):
        raise UsageError(f"{path} has {len(tokens)} tokens, but {len(types)} types.")
    if len(tokens) > MAX_TOKENS:
        raise UsageError(f"{path} has {len(tokens)} tokens; at most {MAX_TOKENS} are possible.")
    if unknown := set(types) - set(TokenType):
        raise UsageError(f"{path} has tokens of the unknown type {min(unknown)}.")
    for id_, token in enumerate(tokens):
        if not 0 < len(token) <= _MAX_LENGTH or "\0" in token:
            raise UsageError(
                f"{path} has the token {shown(token)} (id {id_}); a token has 1 to {_MAX_LENGTH} characters and no NUL."
            )
    if len(set(tokens)) != len(tokens):
        twice = next(token for token, count in Counter(tokens).items() if count > 1)
        raise UsageError(f"{path} has the token {shown(twice)} more than once, which llama.cpp cannot load.")


def check_pieces(path: Path, tokens: list[str], scores: list[float], types: list[int]) -> None:
    """The same of a SentencePiece vocabulary, where llama.cpp breaks off at a byte that no token stands for."""
    if len(tokens) != len(scores):
        raise UsageError(f"{path} has {len(tokens)} tokens, but {len(scores)} scores and {len(types)} types.")
    check_tokens(path, tokens, types)
    if not all(map(isfinite, scores)):
        raise UsageError(f"{path} has tokens whose score is not a finite number.")
    byte = int(TokenType.BYTE)
    found = {token for token, type_ in zip(tokens, types, strict=True) if type_ == byte}
    if different := found ^ BYTES:
        raise UsageError(
            f"{path} must have one byte token for each of {min(BYTES)} to {max(BYTES)} and no other; "
            f"{shown(min(different))} is missing or too much."
        )


def check_prefix(path: Path, vocabulary: Vocabulary) -> None:
    """Refuse added tokens that may begin with the space in front of a text: Hugging Face makes them with it, llama.cpp
    looks for them before."""
    if not vocabulary.space_prefix:
        return
    for token, type_ in zip(vocabulary.tokens, vocabulary.types, strict=True):
        if type_ == TokenType.USER_DEFINED and token.startswith(" "):
            raise UsageError(
                f"{path} puts a space in front of a text and has the added token {shown(token)}, which begins with one "
                "and which llama.cpp would not make of the two."
            )
