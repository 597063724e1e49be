"""Which arithmetic is fast where a model is trained: float32, or bfloat16 by autocast.

Processors with bfloat16 units multiply large matrices several times faster in it, those without many times slower, and
the casts of small matrices cost more than they save. So a few rows of each of a model's matrices are tried.
"""

import hashlib
import json
import logging
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch.nn import functional

from registry.files import write_text
from tasks.checkpoints.architectures import EMBEDDING, OUTPUT
from tasks.training.memory import Shapes
from tasks.training.recipe import Precision, TrainingRecipe

logger = logging.getLogger(__name__)
_ROWS = 128  # of an input; a step has more, but loses on what it computes in bfloat16 between its matrices
_RUNS = 8  # of a matrix in each type, the fastest counts
_SECONDS = 0.6  # after which no further matrix is tried
_WORTHWHILE = 0.95  # of the time of float32 at most, or the exact type is taken
_WORTH_CASTING = 1 << 17  # weights of a model's largest matrix, on a GPU: tiny's have a third of that, all others more
_NAMES = {"fp32": "float32", "bf16": "bfloat16"}
_ISA_VARIABLES = ("ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA")


class Choice(BaseModel):
    """The arithmetic for a model on a device, and the seconds that its matrices took in both types."""

    model_config = ConfigDict(frozen=True)

    precision: Precision
    device: str
    seconds: dict[Precision, float] | None = None

    def __str__(self) -> str:
        told = f"{_NAMES[self.precision]} on {self.device}"
        if self.seconds is None:
            return told
        return f"{told}: bfloat16 takes {self.seconds['bf16'] / self.seconds['fp32']:.2g} times as long as float32"


def decided(shapes: Shapes, recipe: TrainingRecipe, *, kept: Path, title: str) -> TrainingRecipe:
    """``recipe`` with the arithmetic that is fast on this device, which a log line says.

    Args:
        shapes: of the model's tensors.
        kept: folder of what was measured, so that a processor is asked once for each model.
    """
    if recipe.precision != "auto":
        return recipe
    choice = choose(shapes, kept=kept)
    logger.info("%s computes in %s", title, choice)
    return recipe.model_copy(update={"precision": choice.precision})


def choose(shapes: Shapes, *, kept: Path) -> Choice:
    """What :func:`measure` finds, from ``kept`` where it was found before; a GPU is only asked for its units."""
    matrices = Counter(
        (rows, columns)
        for name, (rows, *rest) in shapes.items()
        for columns in rest
        if name not in (EMBEDDING, OUTPUT)  # they cost in proportion
    )
    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False) and max(map(prod, matrices)) >= _WORTH_CASTING
        return Choice(precision="bf16" if fast else "fp32", device=torch.cuda.get_device_name())
    processor = _processor()
    facts = {"processor": processor, "torch": torch.__version__, "matrices": sorted(matrices.items())}
    path = kept / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}.json"
    with suppress(FileNotFoundError, ValidationError):  # a damaged file is written anew
        return Choice.model_validate_json(path.read_text(encoding="utf-8"))
    seconds = measure(matrices)
    faster: Precision = "bf16" if seconds["bf16"] < _WORTHWHILE * seconds["fp32"] else "fp32"
    choice = Choice(precision=faster, device=processor["name"], seconds=seconds)
    write_text(path, choice.model_dump_json(indent=1) + "\n")
    return choice


def _processor() -> dict[str, Any]:
    """What decides how fast this processor computes in either type."""
    told: dict[str, str] = {}
    with suppress(OSError):  # Linux alone; machines of one name differ in what their host lets through
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            told.setdefault(name.strip(), value.strip())
    return {
        "name": told.get("model name") or platform.processor() or platform.machine(),
        "flags": told.get("flags") or told.get("Features"),
        "limits": {name: os.environ.get(name) for name in _ISA_VARIABLES},
    }


def measure(matrices: Counter[tuple[int, int]]) -> dict[Precision, float]:
    """Seconds of forward and backward pass through matrices (out, in), so many of each; it takes less than one.

    They take turns, the smallest first: with a processor that emulates bfloat16 the time may be over after it. One
    thread computes, and its own time counts, so that whatever else runs on the machine changes no choice.
    """
    clock = time.perf_counter if sys.platform == "win32" else time.thread_time  # which is coarse there
    fastest: dict[tuple[int, int], tuple[float, float]] = {}
    with torch.random.fork_rng(devices=[]), _one_thread():
        inputs = {
            shape: (torch.randn(shape, requires_grad=True), torch.randn(_ROWS, shape[1], requires_grad=True))
            for shape in sorted(matrices, key=prod)
        }
        for bf16 in (False, True):  # the first of all starts much
            _pass(torch.randn(8, 8, requires_grad=True), torch.randn(8, 8), bf16=bf16, clock=clock)
        end = clock() + _SECONDS
        for _, (shape, (weight, rows)) in product(range(_RUNS), inputs.items()):
            if clock() > end:
                break
            exact, rounded = (_pass(weight, rows, bf16=bf16, clock=clock) for bf16 in (False, True))
            before = fastest.get(shape, (exact, rounded))
            fastest[shape] = min(exact, before[0]), min(rounded, before[1])
    fp32, bf16 = (sum(matrices[shape] * took[kind] for shape, took in fastest.items()) for kind in (0, 1))
    return {"fp32": fp32, "bf16": bf16}


def _pass(weight: torch.Tensor, rows: torch.Tensor, *, bf16: bool, clock: Callable[[], float]) -> float:
    started = clock()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = functional.linear(rows, weight)
    found.backward(torch.ones_like(found))
    weight.grad = rows.grad = None
    return clock() - started


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
