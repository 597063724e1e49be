"""Steps per second of each arithmetic on this machine, and whether auto takes the fastest.

    python -m tests.benchmarks.bench_precision [BASE] [--profile gemma3-270m] [--steps 6]

Teacher and student of ``tiny`` train on the shipped sample; with BASE, a Hugging Face folder, so do those of
``--profile`` from there. The processor's own time decides, which a busy machine changes least.
A processor with bfloat16 units plays one without by ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2. Exit code 1
where auto is more than 5 % slower than another choice.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table

from data_checks.contract import read_jsonl
from data_checks.sample import SAMPLE_DIR
from flows.settings import Profile, load_profile
from registry.cores import usable_cores
from registry.records import load_label_set
from tasks.bases.scratch import build_scratch_base
from tasks.bases.spec import ScratchBase
from tasks.checkpoints.architectures import describe
from tasks.checkpoints.files import read_json
from tasks.checkpoints.loading import load_tokenizer
from tasks.gguf.plan import plan_types
from tasks.quant import qat
from tasks.training.examples import Batch, build_examples, epoch_batches
from tasks.training.models import load_for_training, load_model
from tasks.training.objective import Objective
from tasks.training.optimizer import build_optimizer
from tasks.training.recipe import Precision, TrainingRecipe
from tests.benchmarks.decided import decided_profile

_SLOWER = 1.05  # than the fastest, at most
_PATIENCE = 60.0  # seconds for one choice; what is slower than that is not asked for every step


class Trainee:
    """One choice's training, a step at a time."""

    def __init__(self, base: Path, profile: Profile, recipe: TrainingRecipe, teacher_bits: int | None) -> None:
        arithmetic = torch.bfloat16 if recipe.in_bf16 else torch.float32
        _, trained = load_for_training(base, recipe)
        if recipe.qat:
            plan = plan_types(describe(read_json(base / "config.json")), **profile.export.model_dump())
            qat.attach(trained, {name: tensor.type for name, tensor in plan.items()})
        distil = {}
        if teacher_bits:
            teacher = load_model(base, bits=teacher_bits, arithmetic=arithmetic).eval().requires_grad_(False)
            mix = profile.student.distill.model_dump(include={"temperature", "alpha_kd", "alpha_ce", "beta"})
            distil = {"teacher": teacher, **mix}
        self._recipe = recipe
        self._objective = Objective(trained, head_dtype=arithmetic, **distil).train()
        self._optimizer = build_optimizer(self._objective, recipe)
        self.wall: list[float] = []
        self.own: list[float] = []

    def step(self, batch: Batch) -> None:
        wall, own = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=self._recipe.in_bf16):
            loss = self._objective(batch)
        (loss / batch.response_tokens).backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.wall.append(time.perf_counter() - wall)
        self.own.append(time.process_time() - own)

    def medians(self) -> tuple[float, float]:
        """Seconds of a step by the clock and by the processor, without the first, which warms up."""
        return median(self.wall[1:] or self.wall), median(self.own[1:] or self.own)


def measure(base: Path, profile: Profile, steps: int, kept: Path) -> tuple[Table, bool]:
    """The table of a profile's teacher and student, and whether auto is among the fastest in both."""
    chosen = decided_profile(profile, base, kept)
    labels = load_label_set(SAMPLE_DIR / "labels.toml")
    records, _ = read_jsonl(SAMPLE_DIR / "train.jsonl", labels)
    table = Table(title=f"{profile.name}, {usable_cores()} cores", title_justify="left")
    for column in ("training", "precision", "teacher_bits", "steps/s", "CPU seconds a step", "auto"):
        table.add_column(column, justify="left" if column == "training" else "right")
    passed = True
    for stage, settings in (("teacher", chosen.teacher), ("student", chosen.student)):
        recipe = settings.training
        torch.set_num_threads(recipe.threads or usable_cores())
        examples = build_examples(records, load_tokenizer(base), profile.prompt, labels, max_tokens=recipe.max_tokens)
        batches = list(epoch_batches(examples, batch_size=recipe.batch_size, pad_id=0, seed=1, epoch=0))[: steps + 1]
        choices: list[tuple[Precision, int | None]] = [("fp32", None), ("bf16", None)]
        if stage == "student":
            choices = [("fp32", 32), ("fp32", 16), ("bf16", 32), ("bf16", 16)]
        found = {}
        for precision, bits in choices:  # one after the other: four large models at once would not fit
            trainee = Trainee(base, profile, recipe.model_copy(update={"precision": precision}), bits)
            for batch in batches:
                if sum(trainee.wall) < _PATIENCE:
                    trainee.step(batch)
            found[precision, bits] = trainee.medians()
            del trainee
        auto = recipe.precision, chosen.student.distill.bits if stage == "student" else None
        passed &= found[auto][1] <= _SLOWER * min(own for _, own in found.values())
        for choice, (wall, own) in found.items():
            taken = "taken" if choice == auto else ""
            table.add_row(stage, choice[0], str(choice[1] or "–"), f"{1 / wall:.2f}", f"{own:.3f}", taken)
    return table, passed


def processor() -> str:
    """This processor's name and whether torch may use bfloat16 units of it."""
    told = dict(
        (part.strip() for part in line.split(":", 1))
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if ":" in line
    )
    flags = told.get("flags", told.get("Features", "")).split()
    units = [flag for flag in ("amx_bf16", "avx512_bf16", "bf16") if flag in flags]
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    name = told.get("model name", "unknown processor")
    if limit:
        return f"{name}, held to {limit}"
    return f"{name}, {', '.join(units) if units else 'no bfloat16 units'}"


def main(options: argparse.Namespace) -> int:
    console = Console()
    console.print(processor())
    tiny = load_profile("tiny")
    passed = True
    with TemporaryDirectory() as folder:
        base = Path(folder) / "tiny"
        labels = load_label_set(SAMPLE_DIR / "labels.toml")
        spec = tiny.teacher.base
        assert isinstance(spec, ScratchBase)
        build_scratch_base(spec, read_jsonl(SAMPLE_DIR / "train.jsonl", labels)[0], labels, base)
        cases = [(base, tiny)]
        if options.base:
            cases.append((options.base, load_profile(options.profile)))
        for place, profile in cases:
            table, fast = measure(place, profile, options.steps, Path(folder) / "kept")
            console.print(table)
            passed &= fast
    console.print("auto is within 5 % of the fastest" if passed else "auto is MORE than 5 % slower than the fastest")
    return 0 if passed else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, nargs="?")
    parser.add_argument("--profile", default="gemma3-270m")
    parser.add_argument("--steps", type=int, default=6)
    sys.exit(main(parser.parse_args()))
