from pathlib import Path

import pytest
from transformers import AutoTokenizer

from deployment.prompts.prompt import Prompt, encode_answer, encode_prompt
from registry.records import LabelSet, Record, answer_text
from tasks.evaluation.lengths import longest


@pytest.mark.parametrize("prompt", [Prompt(), Prompt(instruction="Answer with JSON.", compact=True)])
def test_the_longest_record_is_counted_in_the_tokens_of_training(
    learnt_model_dir: Path, records: list[Record], labels: LabelSet, prompt: Prompt
):
    tokenizer = AutoTokenizer.from_pretrained(learnt_model_dir)
    found = longest(learnt_model_dir, records, labels, prompt)
    assert found.prompt == max(len(encode_prompt(tokenizer, prompt, record.command)) for record in records)
    answers = [answer_text(record.response, labels, compact=prompt.compact) for record in records]
    assert found.answer == max(len(encode_answer(tokenizer, prompt, answer)) for answer in answers)
    assert found.context == 2048
