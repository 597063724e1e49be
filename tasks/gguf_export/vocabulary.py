"""A SentencePiece vocabulary as GGUF stores it, and what llama.cpp asks of one."""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from gguf.constants import TokenType

from registry.errors import UsageError
from tasks.gguf_export.files import shown

MAX_TOKENS = 1 << 20  # four times Gemma 3's
_MAX_LENGTH = 256  # characters; Gemma 3's longest piece has 31
_BYTES = {f"<0x{byte:02X}>" for byte in range(256)}


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """``tokenizer.ggml.*`` of a SentencePiece vocabulary; the three lists run by token id."""

    tokens: list[str]
    scores: list[float]
    types: list[int]  # gguf.TokenType
    bos: int
    eos: int
    unknown: int
    padding: int


def check_pieces(path: Path, tokens: list[str], scores: list[float], types: list[int]) -> None:
    """Raise UsageError where llama.cpp would stop or read something else than ``path`` says.

    It aborts on repeated texts, ends a text at a NUL, and breaks off at a byte that no token stands for.
    """
    if not len(tokens) == len(scores) == len(types):
        raise UsageError(f"{path} has {len(tokens)} tokens, but {len(scores)} scores and {len(types)} types.")
    if len(tokens) > MAX_TOKENS:
        raise UsageError(f"{path} has {len(tokens)} tokens; at most {MAX_TOKENS} are possible.")
    if unknown := set(types) - set(TokenType):
        raise UsageError(f"{path} has tokens of the unknown type {min(unknown)}.")
    for id_, token in enumerate(tokens):
        if not 0 < len(token) <= _MAX_LENGTH or "\0" in token:
            raise UsageError(
                f"{path} has the token {shown(token)} (id {id_}); a token has 1 to {_MAX_LENGTH} characters and no NUL."
            )
    if not all(isfinite(score) for score in scores):
        raise UsageError(f"{path} has tokens whose score is not a finite number.")
    ids = {token: id_ for id_, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        twice = next(token for id_, token in enumerate(tokens) if ids[token] != id_)
        raise UsageError(f"{path} has the token {shown(twice)} more than once, which llama.cpp cannot load.")
    found = {token for token, type_ in zip(tokens, types, strict=True) if type_ == TokenType.BYTE}
    if different := found ^ _BYTES:
        raise UsageError(
            f"{path} must have one byte token for each of {min(_BYTES)} to {max(_BYTES)} and no other; "
            f"{shown(min(different))} is missing or too much."
        )
