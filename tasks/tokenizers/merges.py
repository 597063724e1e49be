"""Merges of a BPE tokenizer against what llama.cpp makes of a vocabulary: pieces and their scores alone.

llama.cpp joins any two neighbours, pieces or single characters, whose sum is a token of any type; the one with the best
score first. Gemma 3 has half a million such pairs, so they are found and compared as numbers.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf.constants import TokenType

from registry.errors import UsageError
from tasks.checkpoints.files import shown

# Any large odd numbers; the base has an inverse.
_BASE, _PAIR, _SLOT = 0x9E3779B97F4A7C15, np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0xD6E8FEB86659FD93)
_INVERSE = pow(_BASE, -1, 1 << 64)
_SLOTS_PER_HASH = 4  # at least; fewer than one hash in eight then finds its slot taken
_BATCH = 1 << 12  # merges
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
    ids = dict(zip(pieces, range(len(pieces)), strict=True))
    vocabulary = _Hashes(list(ids))
    known, longest = _Table(vocabulary.whole), int(vocabulary.lengths.max(initial=0))
    parts, lengths = _part_hashes(path, merges, longest)
    left, right = parts[::2], parts[1::2]
    sums = known.find(left + right * _powers(_BASE, longest)[lengths[::2]])
    possible = (sums >= 0) & known.joins(left, lengths[::2]) & known.joins(right, lengths[1::2])
    for index in np.flatnonzero(~possible).tolist():
        _refuse(path, *merge_texts(path, [merges[index]]))
    merged = np.sort(_pair_hash(left, right))
    number = len(merged) - np.count_nonzero(merged[1:] == merged[:-1])
    joins = _joins(vocabulary, known)
    if number < len(joins.piece):
        index = np.flatnonzero(~np.isin(_pair_hash(joins.left, joins.right), merged))[0]
        piece, cut = list(ids)[joins.piece[index]], int(joins.cut[index])
        _refuse(path, piece[:cut], piece[cut:])
    if number < len(merged):
        raise UsageError(f"{path} holds a merge twice; save the tokenizer again.")
    sum_ids = np.fromiter(ids.values(), np.int64, len(ids))[sums]
    normal = sum_ids[np.asarray(types)[sum_ids] == TokenType.NORMAL]
    if (normal[1:] < normal[:-1]).any():
        raise UsageError(f"{path} has merges in another order than its ids, which scores cannot express.")


class _Hashes:
    """Polynomial hashes modulo 2^64 of texts and of their parts, without a Python object for any of them.

    Two of a vocabulary's few million parts collide once in ten million vocabularies.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.lengths = np.fromiter(map(len, texts), np.int32, len(texts))
        self.starts = np.cumsum(self.lengths) - self.lengths
        codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), "<u4")
        places = np.arange(len(codes), dtype=np.int32)  # in its text
        places -= np.repeat(self.starts.astype(np.int32), self.lengths)
        longest = self.lengths.max(initial=0)
        self._inverses = _powers(_INVERSE, longest)
        self._sums = np.zeros(len(codes) + 1, np.uint64)
        np.multiply(codes + np.uint64(1), _powers(_BASE, longest)[places], out=self._sums[1:])
        np.cumsum(self._sums, out=self._sums)
        self.whole = self._sums[self.starts + self.lengths] - self._sums[self.starts]

    def cut(self, text: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hashes of what lies left and right of ``place`` in the texts of these indices."""
        begin = self.starts[text]
        left = self._sums[begin + place] - self._sums[begin]
        return left, (self.whole[text] - left) * self._inverses[place]


def _part_hashes(path: Path, merges: list[Any], longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash and length of the left and right part of each merge in turn; refuses a part longer than any piece.

    Some at a time, which stay in the processor's cache from one pass over them to the next.
    """
    batches = []
    for start in range(0, max(len(merges), 1), _BATCH):
        texts = merge_texts(path, merges[start : start + _BATCH])
        if (length := max(map(len, texts), default=0)) > longest:
            index = next(index for index, text in enumerate(texts) if len(text) == length)
            _refuse(path, *texts[index - index % 2 :][:2])
        hashes = _Hashes(texts)
        batches.append((hashes.whole, hashes.lengths))
    whole, lengths = zip(*batches, strict=True)
    return np.concatenate(whole), np.concatenate(lengths)


class _Table:
    """The index of each hash by open addressing, several times as fast as a search among sorted hashes."""

    def __init__(self, hashes: np.ndarray) -> None:
        self._hashes = hashes
        self._bits = (_SLOTS_PER_HASH * len(hashes)).bit_length()
        self._slots = np.full(1 << self._bits, -1, np.int32)
        waiting = np.arange(len(hashes), dtype=np.int32)
        slots = self._first(hashes)
        while len(waiting):
            free = self._slots[slots] < 0
            self._slots[slots[free]] = waiting[free]  # the last one of several gets it
            without = self._slots[slots] != waiting
            waiting, slots = waiting[without], self._next(slots[without])

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """The index of each, or -1."""
        slots = self._first(hashes)
        found = self._slots[slots]
        (other,) = np.nonzero((found >= 0) & (self._hashes[found] != hashes))
        while len(other):
            slots[other] = self._next(slots[other])
            found[other] = self._slots[slots[other]]
            other = other[(found[other] >= 0) & (self._hashes[found[other]] != hashes[other])]
        return found

    def joins(self, part: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Whether llama.cpp joins these parts with a neighbour: single characters and pieces."""
        return (length == 1) | (self.find(part) >= 0)

    def _first(self, hashes: np.ndarray) -> np.ndarray:
        return (hashes * _SLOT >> np.uint64(64 - self._bits)).astype(np.int32)

    def _next(self, slots: np.ndarray) -> np.ndarray:
        return (slots + 1) & ((1 << self._bits) - 1)


class _Joins(NamedTuple):
    """Every way to cut a piece in two that llama.cpp would join again."""

    piece: np.ndarray  # index into the vocabulary
    cut: np.ndarray  # length of the left part
    left: np.ndarray
    right: np.ndarray


def _joins(vocabulary: _Hashes, known: _Table) -> _Joins:
    cuts = np.maximum(vocabulary.lengths - 1, 0)
    piece = np.repeat(np.arange(len(cuts), dtype=np.int32), cuts)
    cut = np.arange(1, len(piece) + 1, dtype=np.int32) - np.repeat((np.cumsum(cuts) - cuts).astype(np.int32), cuts)
    left, right = vocabulary.cut(piece, cut)
    found = np.flatnonzero(known.joins(left, cut))
    found = found[known.joins(right[found], (vocabulary.lengths[piece] - cut)[found])]
    return _Joins(piece[found], cut[found], left[found], right[found])


def _pair_hash(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return left * _PAIR + right


def _powers(base: int, largest: int) -> np.ndarray:
    """``base`` to the powers 0 to ``largest``, modulo 2^64."""
    factors = np.full(largest + 1, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


def merge_texts(path: Path, merges: list[Any]) -> list[str]:
    """Left and right part of each merge in turn; GGUF and older tokenizer.json write the two with a space between.

    Raises UsageError, naming ``path``, for what is no pair of texts.
    """
    if str in set(map(type, merges)):
        merges = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in merges]
    if set(map(type, merges)) <= {list} and set(map(len, merges)) <= {2}:
        flat = list(chain.from_iterable(merges))
        if set(map(type, flat)) <= {str} and all(flat):
            return flat
    raise UsageError(f"{path} has merges that are no pairs of texts.")


def _refuse(path: Path, left: str, right: str) -> None:
    raise UsageError(
        f"{path} and llama.cpp would differ in joining {shown(left)} and {shown(right)}: merges must hold exactly "
        "the pairs of pieces whose sum is a piece."
    )
