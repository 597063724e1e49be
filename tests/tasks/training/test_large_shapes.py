"""The shapes of Gemma 3 1B and 270M with random weights: a teacher in 4 bits, distillation, QAT and the file."""

from pathlib import Path

import pytest
from training_samples import PROMPT, make_recipe, make_teaching, run_fit

from deployment.prompts.prompt import encode_prompt
from deployment.runtimes.llama_server import LlamaServer
from registry.records import LabelSet, Record
from tasks.bases.scratch import build_scratch_base
from tasks.bases.spec import ScratchBase
from tasks.checkpoints.loading import load_tokenizer
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType

SHAPES = {
    "1b": {"hidden_size": 1152, "intermediate_size": 6912, "layers": 26},
    "270m": {"hidden_size": 640, "intermediate_size": 2048, "layers": 18},
}
ADAPTER = {"method": "lora", "lora": {"r": 64, "alpha": 16, "dropout": 0.0}, "train_embedding": False}


@pytest.fixture
def bases(tmp_path: Path, records: list[Record], labels: LabelSet) -> dict[str, Path]:
    heads = {"vocab_size": 448, "heads": 4, "kv_heads": 1, "head_dim": 256, "seed": 1}
    for name, shape in SHAPES.items():
        build_scratch_base(ScratchBase(kind="scratch", **shape, **heads), records, labels, tmp_path / name)
    return {name: tmp_path / name for name in SHAPES}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
def test_a_1b_teacher_in_four_bits_distils_into_a_270m_student_that_ships(
    bases: dict[str, Path], tmp_path: Path, records: list[Record], labels: LabelSet
) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed; pip install 'gemmill[bitsandbytes]'")
    few = records[:8]
    once = {"max_steps": 1, "epochs": 1, "precision": "fp32", "learning_rate": 1e-4}
    run_fit(bases["1b"], tmp_path / "teacher", few, labels, make_recipe(load_bits=4, **ADAPTER, **once))
    teaching = make_teaching(tmp_path / "teacher", teacher_bits=4)
    recipe = make_recipe(qat=True, train_embedding=False, **once)
    history = run_fit(bases["270m"], tmp_path / "student", few, labels, recipe, teaching=teaching)
    assert 0 < history.train_loss[0] < float("inf")
    for name, weights in (("teacher", QuantType.Q8_0), ("student", QuantType.Q4_0)):
        gguf = export_gguf(tmp_path / name, tmp_path / f"{name}.gguf", weights=weights).path
        with LlamaServer(gguf, prompt=PROMPT, slots=1, context=256) as server:
            [prompt] = {tuple(server.tokenize_prompt(record.command)) for record in few[:1]}
            assert list(prompt) == encode_prompt(load_tokenizer(tmp_path / name), PROMPT, few[0].command)
            assert len(server.next_token_logprobs(prompt)) > 400
