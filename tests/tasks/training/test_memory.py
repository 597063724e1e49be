"""The estimate of a training's memory, against what a training takes."""

import json
import logging
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
from training_samples import LORA, make_recipe

from registry.errors import UsageError
from tasks.checkpoints.architectures import describe
from tasks.checkpoints.files import read_json
from tasks.training import memory
from tasks.training.memory import Batch, Shapes, Teacher, free_memory, require_memory, training_memory

_MEASURED = """
import json, resource, sys
from pathlib import Path
import psutil, torch
from tasks.training.examples import Batch
from tasks.training.models import load_for_training
from tasks.training.objective import Objective
from tasks.training.optimizer import build_optimizer
from tasks.training.recipe import TrainingRecipe
recipe = TrainingRecipe.model_validate_json(sys.argv[2])
def peak():
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = Path("/proc/self/status").read_text()  # ru_maxrss goes on from the process that started this one
    return int(told.partition("VmHWM:")[2].split()[0]) * 1024
def step(objective, optimizer, rows):
    ids = torch.randint(448, (rows, 64))
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.in_bf16):
        objective(Batch(ids, torch.ones_like(ids), ids)).backward()
    optimizer.step()
_, trained = load_for_training(Path(sys.argv[1]), recipe)
objective = Objective(trained, head_dtype=torch.bfloat16 if recipe.in_bf16 else torch.float32).train()
optimizer = build_optimizer(objective, recipe)
step(objective, optimizer, 2)
before = psutil.Process().memory_info().rss
step(objective, optimizer, recipe.batch_size)
print(json.dumps(peak() - before))
"""


@pytest.fixture
def shapes(tiny_model_dir: Path) -> Shapes:
    return describe(read_json(tiny_model_dir / "config.json")).tensor_shapes


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_the_estimate_is_of_the_order_of_what_a_step_takes(
    tiny_model_dir: Path, shapes: Shapes, precision: str
) -> None:
    """The activations of a large batch: all else of the tiny model drowns in what the libraries take."""
    recipe = make_recipe(precision=precision, batch_size=256)
    run = [sys.executable, "-c", _MEASURED, tiny_model_dir, recipe.model_dump_json()]
    took = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    parts = training_memory(shapes, recipe, Batch(256 * 64, 256 * 64))
    assert took / 2.5 < sum(parts.values()) < took * 2.5


def test_each_setting_weighs_as_much_as_it_stores(shapes: Shapes) -> None:
    def parts(teacher: Teacher | None = None, **changes: object) -> dict[str, int]:
        return training_memory(shapes, make_recipe(**changes), Batch(100, 40), teacher)

    plain = parts()
    weights, embedding = sum(map(prod, shapes.values())), 448 * 64
    assert plain["weights"] == 4 * weights
    assert plain["gradients and moments"] == 12 * weights
    assert parts(optimizer="muon")["gradients and moments"] == 8 * weights
    assert parts(train_embedding=False)["gradients and moments"] == 12 * (weights - embedding)
    assert parts(qat=True)["weights"] == 4 * weights + 4 * (weights - embedding)
    assert parts(gradient_checkpointing=True)["activations"] < plain["activations"] / 4
    adapter = parts(method="lora", lora=LORA, train_embedding=False)
    assert adapter["gradients and moments"] < plain["gradients and moments"] / 5
    assert "the teacher" not in plain
    assert parts(Teacher(shapes, 32))["the teacher"] == 4 * weights
    assert parts(Teacher(shapes, 16), precision="bf16")["the teacher"] == 2 * weights
    assert parts(Teacher(shapes, 4), precision="bf16")["the teacher"] == (weights - embedding) // 2 + 2 * embedding
    assert parts(Teacher(shapes, 32))["logits"] - 2 * embedding * 4 == 2 * (plain["logits"] - 2 * embedding * 4)


def test_a_training_that_clearly_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parts = {"weights": 1_000_000_000, "activations": 4_300_000_000}  # 6 GB with the process's own 0.7
    with caplog.at_level(logging.INFO):
        monkeypatch.setattr(memory, "free_memory", lambda: 8_000_000_000)
        require_memory(parts, make_recipe(), title="teacher")
        monkeypatch.setattr(memory, "free_memory", lambda: 5_000_000_000)
        require_memory(parts, make_recipe(), title="teacher")
    told = "teacher takes about 6.0 GB, 4.3 of them for activations; "
    assert caplog.messages == [
        f"{told}8.0 GB are free",
        f"{told}5.0 GB are free; if that does not fit, lower batch_size and raise accumulation by as much, or set "
        "gradient_checkpointing = true",
    ]
    with pytest.raises(UsageError, match=r"about 18\.0 GB, 12\.9 of them for activations"):
        require_memory(parts, make_recipe(processes=3, accumulation=3), title="teacher")
    monkeypatch.setattr(memory, "free_memory", lambda: 3_900_000_000)
    with pytest.raises(UsageError, match=r"teacher takes about 6\.0 GB, .* and 3\.9 GB are free; lower batch_size"):
        require_memory(parts, make_recipe(), title="teacher")


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CONTROL_GROUP", tmp_path)
    machine = free_memory()
    assert machine > 1 << 20
    (tmp_path / "memory.current").write_text("1000000\n")
    (tmp_path / "memory.stat").write_text("anon 700000\nactive_file 100000\ninactive_file 200000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory() > 1 << 20
    (tmp_path / "memory.max").write_text("1500000\n")
    assert free_memory() == 800_000, "what caches files is given up when memory is asked for"
