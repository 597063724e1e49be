"""How often a corpus uses each token, as training tokenises it."""

import importlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from deployment.prompts.prompt import Prompt
from registry.errors import UsageError
from registry.records import OUT_OF_SCOPE, LabelSet, Record, Response, answer_text
from tasks.vocabulary.corpus import Corpus

_BATCH = 1000  # texts at once
# Casing, what stands before the word, and how much of the list is common enough in that form: by Zipf's law the n-th
# part of a list is as common in a form that is n times rarer. A capital begins sentences, few words inside them.
_FORMS: tuple[tuple[Callable[[str], str], str, float], ...] = (
    (str.lower, " ", 1.0),
    (str.lower, "", 0.5),
    (str.capitalize, "", 0.5),
    (str.capitalize, " ", 0.25),
    (str.upper, " ", 0.5),
    (str.upper, "", 0.25),
)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How often the labelled records, with prompt and label set, and the unlabelled texts use each token."""

    labelled: Counter[int]
    texts: Counter[int]

    @property
    def total(self) -> Counter[int]:
        return self.labelled + self.texts


def count_corpus(tokenizer: Any, corpus: Corpus, prompt: Prompt) -> Counts:
    return Counts(
        labelled=count_records(tokenizer, corpus.records, corpus.labels, prompt),
        texts=count_texts(tokenizer, corpus.texts),
    )


def encoded(tokenizer: Any, texts: Sequence[str]) -> Iterator[list[int]]:
    """The token ids of each text, without BOS; a control token typed in it stays text."""
    for start in range(0, len(texts), _BATCH):
        batch = list(texts[start : start + _BATCH])
        yield from tokenizer(batch, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def count_texts(tokenizer: Any, texts: Sequence[str]) -> Counter[int]:
    counts: Counter[int] = Counter()
    for ids in encoded(tokenizer, texts):
        counts.update(ids)
    return counts


def count_records(tokenizer: Any, records: Sequence[Record], labels: LabelSet | None, prompt: Prompt) -> Counter[int]:
    """Tokens of prompts, commands and answers, of every answer's frame, and of entity values in other sentences."""
    counts: Counter[int] = Counter()
    for text in (prompt.prefix, prompt.suffix, prompt.end):
        counts.update(tokenizer.encode(text, add_special_tokens=False))
    if labels is None:
        return counts
    texts = [record.command.strip() for record in records]
    texts += _both_forms([record.response for record in records], labels)
    values = {value for record in records for _, value in record.response.entity_values()}
    texts += [form for value in sorted(values) for form in (value, f" {value}")]
    return counts + count_texts(tokenizer, [*texts, *_frames(labels)])


def _frames(labels: LabelSet) -> list[str]:
    """Answers of each intent with no entity, with each alone, and with all, of one value and of two."""
    choices: list[list[str]] = [[name] for name in labels.entities] + [list(labels.entities)]
    responses = [Response(intent=intent, entities={}) for intent in labels.intents]
    responses += [
        Response(intent=intent, entities=dict.fromkeys(names, value))
        for intent in labels.intents
        if intent != OUT_OF_SCOPE
        for names in choices
        for value in ("1", ["1", "2"])
    ]
    return _both_forms(responses, labels)


def _both_forms(responses: Sequence[Response], labels: LabelSet) -> list[str]:
    """The answers with blanks in their JSON and without, for which the model may be trained later."""
    return [answer_text(response, labels, compact=compact) for response in responses for compact in (False, True)]


def word_forms(count: int) -> list[str]:
    """The ``count`` commonest English words as they stand in texts, most of them in several forms.

    Raises UsageError where the word list is not installed.
    """
    if not count:
        return []
    try:
        words: list[str] = importlib.import_module("wordfreq").top_n_list("en", count)
    except ImportError as error:
        raise UsageError(
            "the list of the commonest words is not installed; run pip install 'gemmill[vocabulary]', or keep 0 words."
        ) from error
    return [before + casing(word) for casing, before, share in _FORMS for word in words[: round(count * share)]]
