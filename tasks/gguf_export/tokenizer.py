"""The vocabulary as GGUF stores it: pieces, scores, types and the ids that the runtime needs."""

from dataclasses import dataclass


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
