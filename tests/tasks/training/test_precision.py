"""The arithmetic that is fast on a processor: measured once, kept, the same for every process and after a kill."""

import json
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from training_samples import make_recipe, run_fit

from registry.errors import UsageError
from registry.records import LabelSet, Record
from tasks.checkpoints.architectures import describe
from tasks.checkpoints.files import read_json
from tasks.training import precision
from tasks.training.memory import Shapes
from tasks.training.precision import choose, decided, measure
from tasks.training.recipe import DistillRecipe

GEMMA_270M = Counter({(1024, 640): 18, (256, 640): 36, (640, 1024): 18, (2048, 640): 36, (640, 2048): 18})
WITHOUT_UNITS = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


@pytest.fixture
def shapes(tiny_model_dir: Path) -> Shapes:
    return describe(read_json(tiny_model_dir / "config.json")).tensor_shapes


@pytest.fixture
def takes(monkeypatch: pytest.MonkeyPatch):
    """Make the measurement find so many seconds in either type; returns how often it was asked."""
    asked = []

    def take(fp32: float, bf16: float) -> list[Counter[tuple[int, int]]]:
        def found(matrices: Counter[tuple[int, int]]) -> dict[str, float]:
            asked.append(matrices)
            return {"fp32": fp32, "bf16": bf16}

        monkeypatch.setattr(precision, "measure", found)
        return asked

    return take


def test_a_processor_without_units_computes_in_float32() -> None:
    """A processor that has them plays one without; one that has none is one."""
    code = (
        "from collections import Counter; from tasks.training.precision import measure; import json, time;"
        "started = time.thread_time(); found = measure(Counter({(256, 640): 36, (2048, 640): 36}));"
        "print(json.dumps([found, time.thread_time() - started]))"
    )
    run = [sys.executable, "-c", code]
    told = subprocess.run(run, env=os.environ | WITHOUT_UNITS, check=True, capture_output=True, text=True).stdout
    seconds, took = json.loads(told)
    assert seconds["bf16"] > 1.5 * seconds["fp32"]
    assert took < 2


def test_every_matrix_has_its_turn_before_one_has_its_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the time would be over before the large ones, which gain most."""
    tried = []

    def take(weight: torch.Tensor, rows: torch.Tensor, *, bf16: bool, clock: object) -> float:
        tried.append(weight.shape[0])
        return 0.25 if bf16 else 1.0

    monkeypatch.setattr(precision, "_pass", take)
    assert measure(Counter({(64, 16): 1, (16, 16): 3})) == {"fp32": 4.0, "bf16": 1.0}
    assert tried[2:10] == [16, 16, 64, 64, 16, 16, 64, 64]  # after the two that warm up


def test_small_matrices_are_cast_for_longer_than_they_gain() -> None:
    seconds = measure(Counter({(16, 16): 10, (32, 16): 10}))
    assert seconds["bf16"] > seconds["fp32"]


def test_measuring_leaves_threads_and_random_numbers_as_they_were() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    started = time.thread_time()
    measure(GEMMA_270M)
    assert time.thread_time() - started < 2
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("bf16", "expected"), [(0.3, "bf16"), (0.9, "bf16"), (0.97, "fp32"), (9.0, "fp32")])
def test_auto_takes_bfloat16_where_it_saves_time(takes, shapes, tmp_path: Path, bf16: float, expected: str) -> None:
    takes(1.0, bf16)
    recipe = decided(shapes, make_recipe(precision="auto"), kept=tmp_path, title="teacher")
    assert recipe == make_recipe(precision=expected)


def test_every_matrix_of_the_layers_is_measured_and_the_embedding_is_not(takes, shapes, tmp_path: Path) -> None:
    asked = takes(1.0, 2.0)
    choose(shapes, kept=tmp_path)
    assert asked == [Counter({(64, 64): 4, (32, 64): 4, (128, 64): 4, (64, 128): 2})]


def test_a_processor_is_measured_once_for_each_model(
    takes, shapes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = takes(1.0, 8.0)
    with caplog.at_level(logging.INFO):
        first = decided(shapes, make_recipe(precision="auto"), kept=tmp_path, title="teacher")
        takes(8.0, 1.0)
        again = decided(shapes, make_recipe(precision="auto", epochs=9), kept=tmp_path, title="student")
    assert (first.precision, again.precision, len(asked)) == ("fp32", "fp32", 1)
    assert "bfloat16 takes 8 times as long as float32" in caplog.messages[1]
    [kept] = tmp_path.iterdir()
    assert json.loads(kept.read_text())["seconds"] == {"fp32": 1.0, "bf16": 8.0}
    kept.write_text("{")
    assert decided(shapes, make_recipe(precision="auto"), kept=tmp_path, title="student").precision == "bf16"


@pytest.mark.parametrize("change", ["limit", "model"])
def test_another_processor_or_model_is_measured_anew(
    takes, shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    asked = takes(1.0, 8.0)
    choose(shapes, kept=tmp_path)
    if change == "limit":
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2" if "ONEDNN_MAX_CPU_ISA" not in os.environ else "SSE41")
    else:
        shapes = {**shapes, "model.layers.2.self_attn.q_proj.weight": (64, 64)}
    choose(shapes, kept=tmp_path)
    assert len(asked) == 2


def test_what_the_recipe_says_is_not_measured(takes, shapes, tmp_path: Path) -> None:
    asked = takes(1.0, 8.0)
    assert decided(shapes, make_recipe(precision="bf16"), kept=tmp_path, title="x").precision == "bf16"
    assert not asked


@pytest.mark.parametrize(
    ("units", "matrix", "expected"),
    [(True, (1024, 640), "bf16"), (False, (1024, 640), "fp32"), (True, (384, 128), "fp32")],
    ids=["units", "no units", "tiny"],
)
def test_a_gpu_is_asked_for_its_units(
    takes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, units: bool, matrix: tuple[int, int], expected: str
) -> None:
    asked = takes(1.0, 1.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: units or including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU")
    choice = choose({"model.layers.0.mlp.up_proj.weight": matrix, "model.norm.weight": (640,)}, kept=tmp_path)
    assert choice.precision == expected and not asked
    assert str(choice) == f"{'bfloat16' if expected == 'bf16' else 'float32'} on GPU"


def test_the_teachers_bits_follow_the_students_arithmetic() -> None:
    mix = DistillRecipe(temperature=2.0, alpha_kd=0.5, alpha_ce=0.5, teacher_bits="auto")
    assert mix.beside(make_recipe(precision="bf16")).bits == 16
    assert mix.beside(make_recipe(precision="fp32")).bits == 32
    eight = mix.model_copy(update={"teacher_bits": 8})
    assert eight.beside(make_recipe(precision="bf16")) == eight


def test_nothing_trains_before_the_arithmetic_is_decided(
    tiny_model_dir: Path, tmp_path: Path, records: list[Record], labels: LabelSet
) -> None:
    with pytest.raises(ValueError, match='precision is still "auto"'):
        run_fit(tiny_model_dir, tmp_path / "out", records[:8], labels, make_recipe(precision="auto"))


def test_a_run_that_goes_on_keeps_its_arithmetic(
    tiny_model_dir: Path, tmp_path: Path, records: list[Record], labels: LabelSet
) -> None:
    class Killed(Exception):
        pass

    def kill(name: str, value: float, step: int) -> None:
        if step == 4:  # the checkpoint is of step 3
            raise Killed

    few = records[:20]
    with pytest.raises(Killed):
        run_fit(tiny_model_dir, tmp_path / "out", few, labels, make_recipe(precision="fp32"), on_metric=kill)
    with pytest.raises(UsageError, match="has precision fp32, the recipe says bf16; set it back or remove that file"):
        run_fit(tiny_model_dir, tmp_path / "out", few, labels, make_recipe(precision="bf16"))
    run_fit(tiny_model_dir, tmp_path / "out", few, labels, make_recipe(precision="fp32"))
