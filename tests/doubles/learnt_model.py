"""A real small Gemma 3 that has learnt four records by heart, so that greedy answers have no near ties."""

import shutil
from pathlib import Path

import pytest
import torch

from deployment.answers.doubt import Doubt, Sigmoid
from deployment.answers.rules import AnswerRules, learn_rules
from deployment.prompts.prompt import Prompt, chat_template, encode_answer, encode_prompt
from registry.records import LabelSet, Record, Response, answer_text, label_set_toml
from tasks.bases.scratch import build_scratch_base
from tasks.bases.spec import ScratchBase
from tasks.evaluation.hf_runtime import load_model
from tasks.gguf.plan import QuantType
from tasks.gguf.writer import export_gguf

PROMPT = Prompt()
_PLAIN = Sigmoid(slope=1.0, intercept=0.0)
DOUBT = Doubt(
    out_of_scope=_PLAIN,
    intent=_PLAIN,
    field=_PLAIN,
    answer=_PLAIN,
    out_of_scope_from=-1.0,
    ask_below=0.5,
    in_scope_rows=300,
    out_of_scope_rows=40,
    source="rows of a test",
)


@pytest.fixture(scope="session")
def plant_labels() -> LabelSet:
    return LabelSet(
        name="plant",
        intents={"report_leak": "", "check_asset": "", "out_of_scope": ""},
        entities={"asset": "", "fluid": ""},
    )


@pytest.fixture(scope="session")
def plant_records() -> list[Record]:
    rows = [
        ("Oil leak at SG-402.", "report_leak", {"asset": "SG-402", "fluid": "oil"}),
        ("check pumps P-1 and P-2, please", "check_asset", {"asset": ["P-1", "P-2"]}),
        ("What is the weather tomorrow?", "out_of_scope", {}),
        ("Prüfe Ölstand", "check_asset", {"fluid": "Öl"}),
    ]
    return [
        Record(command=command, response=Response(intent=intent, entities=entities))
        for command, intent, entities in rows
    ]


@pytest.fixture(scope="session")
def learnt_model_dir(
    tmp_path_factory: pytest.TempPathFactory, plant_records: list[Record], plant_labels: LabelSet
) -> Path:
    """A Hugging Face folder whose greedy answers to ``plant_records`` are the records' own."""
    folder = tmp_path_factory.mktemp("learnt") / "model"
    spec = ScratchBase(
        kind="scratch", vocab_size=340, hidden_size=64, intermediate_size=128, layers=2, heads=2, kv_heads=1,
        head_dim=32, seed=1,
    )  # fmt: skip
    build_scratch_base(spec, plant_records * 20, plant_labels, folder)
    model, tokenizer = load_model(folder)
    _learn_by_heart(model.train(), tokenizer, plant_records, plant_labels)
    model.save_pretrained(folder)  # type: ignore[operator]
    return folder


@pytest.fixture(scope="session")
def learnt_gguf(learnt_model_dir: Path) -> Path:
    """The same model as an f32 GGUF."""
    path = learnt_model_dir.parent / "learnt-f32.gguf"
    export_gguf(
        learnt_model_dir,
        path,
        weights=QuantType.F32,
        embedding=QuantType.F32,
        provenance={},
        chat_template=chat_template(PROMPT),
    )
    return path


def _learn_by_heart(model: torch.nn.Module, tokenizer, records: list[Record], labels: LabelSet) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    examples = []
    for record in records:
        prompt = encode_prompt(tokenizer, PROMPT, record.command)
        answer = encode_answer(tokenizer, Prompt(), answer_text(record.response, labels))
        examples.append((torch.tensor([prompt + answer]), torch.tensor([[-100] * len(prompt) + answer])))
    for _ in range(90):
        losses = [model(input_ids=ids, labels=targets).loss for ids, targets in examples]
        torch.stack(losses).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert max(loss.item() for loss in losses) < 0.02


@pytest.fixture(scope="session")
def model(
    tmp_path_factory: pytest.TempPathFactory, learnt_gguf: Path, plant_labels: LabelSet, plant_records: list[Record]
) -> Path:
    """The file with its label set and its rules beside it."""
    folder = tmp_path_factory.mktemp("learnt")
    (folder / "labels.toml").write_text(label_set_toml(plant_labels))
    (folder / "answers.json").write_text(learn_rules(plant_records, plant_labels).model_dump_json())
    return Path(shutil.copy(learnt_gguf, folder))


@pytest.fixture(scope="session")
def doubting(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with rules that say how sure it is: as sure as it is itself."""
    folder = Path(shutil.copytree(model.parent, tmp_path_factory.mktemp("doubting") / "model"))
    rules = AnswerRules.model_validate_json((folder / "answers.json").read_bytes())
    (folder / "answers.json").write_text(rules.model_copy(update={"doubt": DOUBT}).model_dump_json())
    return folder / model.name
