"""Words in smaller tokens: the same text, spelled as a tokenizer without those words would."""

import json
from typing import Any

import pytest
from tokenizers import Tokenizer
from training_samples import PROMPT

from registry.records import LabelSet
from tasks.training.examples import Example
from tasks.training.subwords import Subwords


@pytest.fixture(scope="module")
def subwords(tokenizer: Any, labels: LabelSet) -> Subwords:
    return Subwords(tokenizer, PROMPT, labels)


def words(tokenizer: Any, ids: tuple[int, ...]) -> set[str]:
    return {piece.lstrip("▁") for piece in tokenizer.convert_ids_to_tokens(ids)}


def test_the_text_stays_and_the_answer_begins_where_it_did(
    examples: list[Example], subwords: Subwords, tokenizer: Any
) -> None:
    spelled = subwords.spelled(examples, 0.5, seed=1, epoch=0)
    assert spelled != examples
    for before, after in zip(examples, spelled, strict=True):
        assert tokenizer.decode(after.input_ids) == tokenizer.decode(before.input_ids)
        old, new = (example.input_ids[: example.prompt_length] for example in (before, after))
        assert tokenizer.decode(new) == tokenizer.decode(old)


def test_a_word_is_spelled_alike_in_command_and_answer(
    examples: list[Example], subwords: Subwords, tokenizer: Any
) -> None:
    for before, after in zip(examples, subwords.spelled(examples, 0.5, seed=1, epoch=0), strict=True):
        lost = words(tokenizer, before.input_ids[: before.prompt_length])
        lost -= words(tokenizer, after.input_ids[: after.prompt_length])
        assert not lost & words(tokenizer, after.input_ids[after.prompt_length :])


def test_words_of_labels_and_template_keep_their_tokens(
    examples: list[Example], subwords: Subwords, tokenizer: Any, labels: LabelSet
) -> None:
    fixed = {word for name in (*labels.intents, *labels.entities) for word in name.split("_")} | {"user", "model"}
    for before, after in zip(examples, subwords.spelled(examples, 0.99, seed=1, epoch=0), strict=True):
        kept = words(tokenizer, before.input_ids) & fixed
        assert kept <= words(tokenizer, after.input_ids)


def test_the_spelling_is_that_of_a_tokenizer_without_the_word(subwords: Subwords, tokenizer: Any) -> None:
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    checked = 0
    for word, id_ in vocabulary.items():
        letters = word.lstrip("▁")
        if len(letters) < 4 or not letters.isalpha() or tokenizer.encode(letters, add_special_tokens=False) != [id_]:
            continue
        merges = [pair for pair in content["model"]["merges"] if "".join(pair) != word]
        without = Tokenizer.from_str(json.dumps({**content, "model": {**content["model"], "merges": merges}}))
        spelled = tuple(without.encode(letters, add_special_tokens=False).ids)
        assert subwords._split(id_) in ((), spelled)
        checked += bool(subwords._split(id_))
    assert checked >= 10


def test_an_epoch_comes_again_and_another_is_another(examples: list[Example], subwords: Subwords) -> None:
    first = subwords.spelled(examples, 0.2, seed=1, epoch=0)
    assert subwords.spelled(examples, 0.2, seed=1, epoch=0) == first
    assert subwords.spelled(examples, 0.2, seed=1, epoch=1) != first
    assert subwords.spelled(examples, 0.0, seed=1, epoch=0) == examples
