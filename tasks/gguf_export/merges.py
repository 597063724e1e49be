"""Merges of a BPE tokenizer against what llama.cpp makes of a vocabulary: pieces and their scores alone.

llama.cpp joins any two neighbours, pieces or single characters, whose sum is a token of any type; the one with the best
score first. Gemma 3 has half a million such pairs, so they are found and compared as numbers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import TokenType

from registry.errors import UsageError
from tasks.gguf_export.files import shown

_BASE, _PAIR = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)  # any two large odd numbers
MERGEABLE = (TokenType.NORMAL, TokenType.USER_DEFINED)


def ranked_merges(pieces: Iterable[str], scores: list[float], types: list[int]) -> list[tuple[str, str]]:
    """The pairs that join to a normal or user-defined piece, best rank first: scores as BPE merges.

    User-defined pieces rank with score 0; equal scores go by the longer left part, then the longer right
    part, then the id. For Gemma 3 this is Google's list, pair for pair.
    """
    mergeable = {piece: id_ for id_, piece in enumerate(pieces) if types[id_] in MERGEABLE}
    ranked = []
    for piece, id_ in mergeable.items():
        badness = -scores[id_] if types[id_] == TokenType.NORMAL else 0.0
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in mergeable and right in mergeable:
                ranked.append((badness, -cut, cut - len(piece), id_, left, right))
    ranked.sort()
    return [(left, right) for *_, left, right in ranked]


def check_merges(path: Path, merges: list[Any], pieces: Sequence[str], types: Sequence[int]) -> None:
    """Raise UsageError for merges that scores by token id do not reproduce.

    ``path`` is the tokenizer.json that holds ``merges``, for the message.
    """
    flat = merge_texts(path, merges)
    merged = _pair_hash(*_Hashes(flat).whole.reshape(-1, 2).T)
    ids = {piece: id_ for id_, piece in enumerate(pieces) if piece}
    joins = _joins(list(ids))
    by_join, by_merge = np.argsort(joins.pair), np.argsort(merged)
    if not np.array_equal(joins.pair[by_join], merged[by_merge]):
        for index in np.flatnonzero(~np.isin(merged, joins.pair)).tolist():
            _refuse(path, *flat[2 * index : 2 * index + 2])
        for index in np.flatnonzero(~np.isin(joins.pair, merged)).tolist():
            _refuse(path, *joins.texts(index))
        raise UsageError(f"{path} holds a merge twice; save the tokenizer again.")
    numbers = np.fromiter(ids.values(), np.int64, len(ids))
    sums = np.empty(len(merged), np.int64)
    sums[by_merge] = numbers[joins.piece[by_join]]
    sums = sums[np.asarray(types)[sums] == TokenType.NORMAL]
    if (sums[1:] < sums[:-1]).any():
        raise UsageError(f"{path} has merges in another order than its ids, which scores cannot express.")


class _Hashes:
    """Polynomial hashes modulo 2^64 of texts, and of each text's beginnings, without a Python object for any of them.

    Two of a vocabulary's few million parts collide once in ten million vocabularies.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.lengths = np.fromiter(map(len, texts), np.int32, len(texts))
        self.starts = np.cumsum(self.lengths) - self.lengths
        codes = "".join(texts).encode("utf-32-le", "surrogatepass")
        self.beginnings = np.frombuffer(codes, "<u4").astype(np.uint64) + np.uint64(1)  # of all texts, end to end
        by_length = np.argsort(self.lengths)
        starts, lengths = self.starts[by_length], self.lengths[by_length]
        for place in range(1, int(lengths[-1]) if len(lengths) else 0):
            at = starts[np.searchsorted(lengths, place, side="right") :] + place
            self.beginnings[at] += self.beginnings[at - 1] * _BASE

    @property
    def whole(self) -> np.ndarray:
        return self.beginnings[self.starts + self.lengths - 1]


@dataclass(frozen=True)
class _Joins:
    """Every way to cut a piece in two that llama.cpp would join again."""

    pieces: Sequence[str]
    piece: np.ndarray  # index into pieces
    cut: np.ndarray  # length of the left part
    pair: np.ndarray  # hash of the two parts

    def texts(self, index: int) -> tuple[str, str]:
        piece, cut = self.pieces[int(self.piece[index])], int(self.cut[index])
        return piece[:cut], piece[cut:]


def _joins(pieces: Sequence[str]) -> _Joins:
    hashes = _Hashes(pieces)
    whole = hashes.whole
    cuts = hashes.lengths - 1
    piece = np.repeat(np.arange(len(pieces), dtype=np.int32), cuts)
    cut = np.arange(1, len(piece) + 1, dtype=np.int32) - np.repeat((np.cumsum(cuts) - cuts).astype(np.int32), cuts)
    rest = hashes.lengths[piece] - cut
    left = hashes.beginnings[hashes.starts[piece] + cut - 1]
    right = whole[piece] - left * np.cumprod(np.full(hashes.lengths.max(), _BASE))[rest - 1]
    known = np.sort(whole)

    def joins(part: np.ndarray, length: np.ndarray) -> np.ndarray:
        places = np.minimum(np.searchsorted(known, part), len(known) - 1)
        return (length == 1) | (known[places] == part)

    found = np.flatnonzero(joins(left, cut))
    found = found[joins(right[found], rest[found])]
    return _Joins(pieces, piece[found], cut[found], _pair_hash(left[found], right[found]))


def _pair_hash(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return left * _PAIR + right


def merge_texts(path: Path, merges: list[Any]) -> list[str]:
    """Left and right part of each merge in turn; GGUF and older tokenizer.json write the two with a space between.

    Raises UsageError, naming ``path``, for what is no pair of texts.
    """
    pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in merges]
    if set(map(type, pairs)) <= {list} and set(map(len, pairs)) <= {2}:
        flat = list(chain.from_iterable(pairs))
        if set(map(type, flat)) <= {str} and all(flat):
            return flat
    raise UsageError(f"{path} has merges that are no pairs of texts.")


def _refuse(path: Path, left: str, right: str) -> None:
    raise UsageError(
        f"{path} and llama.cpp would differ in joining {shown(left)} and {shown(right)}: merges must hold exactly "
        "the pairs of pieces whose sum is a piece."
    )
