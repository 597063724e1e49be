"""Records of the sample as the tiny real tokenizer makes examples of them."""

from pathlib import Path
from typing import Any

import pytest
from training_samples import PROMPT

from registry.records import LabelSet, Record
from tasks.checkpoints.loading import load_tokenizer
from tasks.training.examples import Example, build_examples


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Any:
    return load_tokenizer(tiny_model_dir)


@pytest.fixture(scope="module")
def examples(records: list[Record], tokenizer: Any, labels: LabelSet) -> list[Example]:
    return build_examples(records, tokenizer, PROMPT, labels, max_tokens=512)
