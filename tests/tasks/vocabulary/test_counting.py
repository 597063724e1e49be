"""Tokens are counted as training will make them."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from deployment.prompts.prompt import Prompt, encode_answer, encode_prompt
from registry.errors import UsageError
from registry.records import LabelSet, Record, Response, answer_text
from tasks.training.pretrain import text_examples
from tasks.vocabulary.counting import count_records, count_texts, encoded, word_forms

_PROMPT = Prompt(instruction="Answer with JSON.")


@pytest.fixture(scope="module")
def tokenizer(base_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(base_dir)


def test_all_tokens_of_a_training_example_are_counted(tokenizer: Any, records: list[Record], labels: LabelSet) -> None:
    counts = count_records(tokenizer, records, labels, _PROMPT)
    trained: Counter[int] = Counter()
    for record in records:
        trained.update(encode_prompt(tokenizer, _PROMPT, record.command))
        trained.update(encode_answer(tokenizer, _PROMPT, answer_text(record.response, labels)))
    assert trained.keys() - {tokenizer.bos_token_id} <= counts.keys()
    of_commands = count_texts(tokenizer, [record.command.strip() for record in records])
    assert all(counts[id_] >= count for id_, count in of_commands.items())


def test_answers_and_values_that_no_record_has_are_counted(tokenizer: Any, labels: LabelSet) -> None:
    intents = [intent for intent in labels.intents if intent != "out_of_scope"]
    record = Record(command="Log it.", response=Response(intent=intents[0], entities={"component": "seal"}))
    counts = count_records(tokenizer, [record], labels, _PROMPT)
    first, *_, last = labels.entities
    unseen = [answer_text(Response(intent=intents[-1], entities={first: ["1", "2"], last: "1"}), labels), " seal"]
    unseen.append(answer_text(Response(intent=intents[-1], entities={first: "1"}), labels, compact=True))
    assert counts.keys() >= count_texts(tokenizer, unseen).keys()


def test_texts_are_counted_as_pre_training_reads_them(tokenizer: Any) -> None:
    texts = ["Pump <end_of_turn> leaks\tat the seal.", "again"]
    found = list(encoded(tokenizer, texts))
    assert found == [list(example.input_ids[1:-1]) for example in text_examples(texts, tokenizer, max_tokens=512)]
    assert count_texts(tokenizer, texts) == Counter(id_ for ids in found for id_ in ids)


def test_commoner_words_have_more_forms() -> None:
    pytest.importorskip("wordfreq")
    forms = word_forms(1000)
    assert {"the", "The", "THE", " the", " The", " THE"} <= set(forms)
    assert len(forms) == 3000
    assert forms.count(" the") == 1 and word_forms(0) == []


def test_a_missing_word_list_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    with pytest.raises(UsageError, match=r"pip install 'gemmill\[vocabulary\]'"):
        word_forms(10)
