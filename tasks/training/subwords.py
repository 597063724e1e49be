"""Words in smaller tokens than they have, so that a model learns to read and copy those that its vocabulary spells out.

BPE-dropout (Provilkov, Emelianenko and Voita 2020, arXiv:1910.13267), by whole words of a record: a word that gives up
its token does so wherever it stands, in the command and in the answer, as if the vocabulary had lost it.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from deployment.prompts.prompt import Prompt, encode_answer, encode_prompt
from registry.records import LabelSet, Response, answer_text
from tasks.training.examples import Example

_SPACES = "▁Ġ"  # before a word, in SentencePiece and in byte-level vocabularies
_SHORTEST = 4  # letters of a word


class Subwords:
    """How one tokenizer would spell the words of a record without their own tokens; words of labels keep theirs."""

    def __init__(self, tokenizer: Any, prompt: Prompt, labels: LabelSet) -> None:
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        self._ids: Mapping[str, int] = model["vocab"]
        self._pieces = {id_: piece for piece, id_ in self._ids.items()}
        self._ranks = {(left, right): rank for rank, (left, right) in enumerate(model["merges"])}
        self._halves: dict[int, tuple[int, ...]] = {}
        self._fixed = {self._word(id_) for id_ in _fixed_ids(tokenizer, prompt, labels)}

    def _word(self, id_: int) -> str | None:
        """The word that a token is, of letters only and not too short."""
        word = self._pieces.get(id_, "").lstrip(_SPACES)
        return word if len(word) >= _SHORTEST and word.isalpha() else None

    def _split(self, id_: int) -> tuple[int, ...]:
        """The two tokens that merge into this one in the end; none where it does not come about by merging."""
        if id_ not in self._halves:
            pieces = list(self._pieces[id_])
            while len(pieces) > 2:
                places = [place for place, pair in enumerate(pairwise(pieces)) if pair in self._ranks]
                if not places:
                    break
                place = min(places, key=lambda place: self._ranks[pieces[place], pieces[place + 1]])
                pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
            merges = tuple(pieces) in self._ranks
            self._halves[id_] = tuple(self._ids[piece] for piece in pieces) if merges else ()
        return self._halves[id_]

    def spelled(self, examples: Sequence[Example], share: float, *, seed: int, epoch: int) -> list[Example]:
        """``examples`` with each word, and again each half of it, in two tokens by the chance ``share``; the same
        (seed, epoch) gives the same ones."""
        generator = random.Random(f"{seed}-{epoch}-subwords")
        return [self._spell(example, share, generator) for example in examples]

    def _spell(self, example: Example, share: float, generator: random.Random) -> Example:
        lost: dict[str, bool] = {}
        for id_ in example.input_ids[: example.prompt_length]:
            self._draw(id_, lost, share, generator)
        prompt, answer = (
            [half for id_ in ids for half in self._tokens(id_, lost)]
            for ids in (example.input_ids[: example.prompt_length], example.input_ids[example.prompt_length :])
        )
        return replace(example, input_ids=(*prompt, *answer), prompt_length=len(prompt))

    def _draw(self, id_: int, lost: dict[str, bool], share: float, generator: random.Random) -> None:
        """Whether this word of a command is lost, and if so which of its halves are."""
        word = self._word(id_)
        if word is None or word in self._fixed:
            return
        if word not in lost:
            lost[word] = generator.random() < share
        if lost[word]:
            for half in self._split(id_):
                self._draw(half, lost, share, generator)

    def _tokens(self, id_: int, lost: Mapping[str, bool]) -> Iterator[int]:
        halves = self._split(id_) if lost.get(self._word(id_) or "") else ()
        if not halves:
            yield id_
        for half in halves:
            yield from self._tokens(half, lost)


def _fixed_ids(tokenizer: Any, prompt: Prompt, labels: LabelSet) -> set[int]:
    """Of the template, and of all intents and entity types as answers hold them."""
    answers = [
        answer_text(Response(intent=intent, entities=dict.fromkeys(labels.entities, "1")), labels)
        for intent in labels.intents
    ]
    ids = [encode_prompt(tokenizer, prompt, ""), *(encode_answer(tokenizer, prompt, answer) for answer in answers)]
    return {id_ for some in ids for id_ in some}
