from pathlib import Path

import pytest
from learnt_model import learnt_gguf, learnt_model_dir, model, plant_labels, plant_records
from tiny_gguf import tiny_gguf

from data_checks.contract import read_jsonl
from data_checks.sample import SAMPLE_DIR
from deployment.answers.rules import AnswerRules, TypeRules, learn_rules
from deployment.answers.spans import Form
from deployment.prompts.prompt import Prompt
from registry.records import LabelSet, Record

__all__ = ["learnt_gguf", "learnt_model_dir", "model", "plant_labels", "plant_records"]


@pytest.fixture(scope="package")
def plant() -> LabelSet:
    """Names as a plant may choose them, hard to quote; one type for each way to hold its values."""
    return LabelSet(
        name="plant",
        intents={"report_leak": "", 'say "stop" \\ 100 %': "", "out_of_scope": ""},
        entities={"asset": "", "Öl\n": "", 'a "note"': "", "kind": "", "%s": ""},
        many=("asset", "%s"),
    )


@pytest.fixture(scope="package")
def rules() -> AnswerRules:
    held = {
        "asset": TypeRules(form=Form.EXACT, grounded=1.0, longest=12, most=2),
        "Öl\n": TypeRules(form=Form.PLAIN, grounded=1.0, longest=20, most=1),
        'a "note"': TypeRules(form=None, grounded=0.4, longest=8, most=1),
        "kind": TypeRules(form=Form.UPPER, grounded=1.0, longest=200, most=1),
        "%s": TypeRules(form=Form.EXACT, grounded=1.0, longest=12, most=3, repeats=True),
    }
    return AnswerRules(types=held, shared=(("asset", "%s"),))


@pytest.fixture(scope="package")
def gguf(tmp_path_factory: pytest.TempPathFactory, plant: LabelSet) -> Path:
    """A model that has learnt nothing, so that it writes whatever it may."""
    return tiny_gguf(tmp_path_factory.mktemp("untrained"), plant, Prompt())


@pytest.fixture(scope="package")
def sample(labels: LabelSet) -> dict[str, list[Record]]:
    """The shipped sample's records to train on and to test with."""
    return {split: read_jsonl(SAMPLE_DIR / f"{split}.jsonl", labels)[0] for split in ("train", "test")}


@pytest.fixture(scope="package")
def sample_rules(sample: dict[str, list[Record]], labels: LabelSet) -> AnswerRules:
    return learn_rules(sample["train"], labels)
