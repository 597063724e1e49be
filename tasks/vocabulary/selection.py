"""Which tokens stay, and for what."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from tasks.vocabulary.base import BaseVocabulary
from tasks.vocabulary.closing import close
from tasks.vocabulary.counting import Counts, count_texts, word_forms
from tasks.vocabulary.recipe import VocabularyRecipe


@dataclass(frozen=True, kw_only=True)
class Selection:
    """``ids`` of the tokens that stay, ascending, and how many of them for which reason."""

    ids: tuple[int, ...]
    reasons: dict[str, int]

    @property
    def new_ids(self) -> dict[int, int]:
        """Old id -> new id. The order stays, and with it the order of merges."""
        return {old: new for new, old in enumerate(self.ids)}


def select(
    base: BaseVocabulary, tokenizer: Any, counts: Counts, recipe: VocabularyRecipe, had: Collection[int] = ()
) -> Selection:
    """The tokens of ``base`` that stay, each with the first reason to keep it.

    Args:
        tokenizer: that of the base.
        had: tokens that the model has already where its vocabulary grows.
    """
    wanted: dict[str, Iterable[int]] = {
        "model": had,
        "structure": base.structure,
        "labelled": counts.labelled,
        "texts": (id_ for id_, count in counts.texts.items() if count >= recipe.minimum_count),
        "words": count_texts(tokenizer, word_forms(recipe.words)),
    }
    kept: set[int] = set()
    reasons = {}
    for reason, ids in wanted.items():
        further = (set(ids) & base.pieces.keys()) - kept
        kept |= further
        reasons[reason] = len(further)
    closed = close(kept, base)
    reasons["merging"] = len(closed) - len(kept)
    return Selection(ids=tuple(sorted(closed)), reasons=reasons)
