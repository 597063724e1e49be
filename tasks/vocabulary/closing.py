"""Which further tokens a set needs so that every text whose tokens are in it is still tokenised into them.

Pruning leaves the pieces in their order, so a runtime makes the same choice among merges as before, as long as the one
that it chose is still there. A token comes about inside its own span: no merge crosses the border of what is a token in
the end, so the merges within run as if the token stood alone. The pieces that appear on the way when a token is
tokenised alone are therefore all that it needs in any text. The first pair that a merge table lists for it is not: that
may never be merged. Hugging Face and llama.cpp break ties differently, so the ways of both count.
"""

from collections.abc import Callable, Iterable

from tasks.vocabulary.base import BaseVocabulary

_Priority = Callable[[str, str], float | None]  # of merging two neighbours, the smallest first; None where they cannot


def close(kept: Iterable[int], base: BaseVocabulary) -> set[int]:
    """``kept`` with the pieces, single characters among them, by which the two runtimes arrive at its tokens."""
    closed = set(kept)
    waiting = list(closed)
    while waiting:
        token = waiting.pop()
        if token not in base.normal:
            continue  # found in the text as it is, or a byte
        for piece in pieces_on_the_way(base.pieces[token], base):
            id_ = base.ids.get(piece)
            if id_ is not None and id_ not in closed:
                closed.add(id_)
                waiting.append(id_)
    return closed


def pieces_on_the_way(token: str, base: BaseVocabulary) -> set[str]:
    """Every piece that appears while either runtime tokenises ``token`` alone, from its characters on."""

    def by_rank(left: str, right: str) -> float | None:
        return base.ranks.get((left, right))

    def by_score(left: str, right: str) -> float | None:
        score = base.scores.get(left + right)
        return None if score is None else -score

    return _merge(token, by_rank) | _merge(token, by_score)


def _merge(text: str, priority: _Priority) -> set[str]:
    """All pieces that merging the best pair, the leftmost of equals, makes of ``text`` until none is left."""
    pieces = list(text)
    seen = set(pieces)
    while len(pieces) > 1:
        ranked = [
            (rank, place)
            for place in range(len(pieces) - 1)
            if (rank := priority(pieces[place], pieces[place + 1])) is not None
        ]
        if not ranked:
            break
        _, place = min(ranked)
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
        seen.add(pieces[place])
    return seen
