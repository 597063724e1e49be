"""Folds of labelled records: every record is asked by a model that was not trained on it."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

from sklearn.model_selection import StratifiedKFold

from registry.records import Record


class Fold(NamedTuple):
    """What one model is trained on, and what it is asked then."""

    train: list[Record]
    held_out: list[Record]


def folds(records: Sequence[Record], count: int, *, seed: int) -> list[Fold]:
    """``count`` folds with the same share of each intent; their held-out records are all of ``records``, once each.

    The same records in another order give the same folds.
    """
    ordered = sorted(records, key=lambda record: (record.command, record.response.model_dump_json()))
    splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an intent that has fewer records than there are folds
        split = list(splitter.split(ordered, [record.response.intent for record in ordered]))
    return [
        Fold([ordered[place] for place in train], [ordered[place] for place in held_out]) for train, held_out in split
    ]
