"""One step of distillation at full vocabulary: gemmill's chunked loss, the plain loss, trl's GKD trainer.

    python -m tests.benchmarks.bench_distill BASE [--batch 6] [--sequence 256] [--steps 3]
                                             [--losses gemmill plain trl]

BASE is a Hugging Face folder, both teacher (bf16) and student (fp32 under bf16 autocast, embedding frozen, AdamW); on a
machine that is faster in fp32 all of it is that. Half of each sequence is the answer. The step's memory is the peak
less what the process held with both models loaded. trl comes with ``pip install .[bench]``; a peer that is not
installed is left out.
"""

import argparse
import importlib.util
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from tasks.distill.kd import kd_loss
from tasks.training.examples import IGNORE_INDEX, Batch
from tasks.training.models import load_model
from tasks.training.objective import Objective
from tests.benchmarks.child import median_seconds, report, resident_gib, run_child, step_clock
from tests.benchmarks.decided import trains_in_bf16

_MIX = {"temperature": 1.0, "alpha_kd": 1.0, "alpha_ce": 0.0}  # what trl's trainer computes
VARIANTS = {"gemmill": "gemmill, chunked", "plain": "plain loss, all logits", "trl": "trl GKDTrainer"}


def make_batch(rows: int, width: int, vocabulary: int) -> Batch:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(6, vocabulary, (rows, width), generator=generator)
    labels = torch.full_like(ids, IGNORE_INDEX)
    labels[:, width // 2 - 1 : -1] = ids[:, width // 2 :]
    return Batch(ids, torch.ones_like(ids), labels)


def models(base: Path, teacher_bits: int) -> tuple[Any, Any]:
    student, teacher = load_model(base, bits=32), load_model(base, bits=teacher_bits).eval().requires_grad_(False)
    student.get_input_embeddings().requires_grad_(False)
    with torch.no_grad():  # or the divergence and its gradient would be nothing
        for parameter in student.parameters():
            parameter.mul_(1.01)
    return student.train(), teacher


def plain_loss(student: Any, teacher: Any, batch: Batch) -> torch.Tensor:
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
    with torch.no_grad():
        target = teacher(**inputs).logits
    return kd_loss(student(**inputs).logits.flatten(0, 1), target.flatten(0, 1), batch.labels.flatten(), **_MIX)


def measure(variant: str, base: Path, rows: int, width: int, steps: int) -> None:
    bf16 = trains_in_bf16(base)
    student, teacher = models(base, 16 if bf16 else 32)
    loaded = resident_gib()
    batch = make_batch(rows, width, student.config.vocab_size)
    if variant == "trl":
        return measure_trl(student, teacher, batch, steps, loaded, bf16=bf16)
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=1e-5, fused=True)
    objective = Objective(student, head_dtype=torch.bfloat16 if bf16 else torch.float32, teacher=teacher, **_MIX)
    losses = []

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = objective(batch) if variant == "gemmill" else plain_loss(student, teacher, batch)
        losses.append(loss.item() / batch.response_tokens)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return report(seconds=median_seconds(step, steps), loss=losses[0], loaded_gib=loaded)


def measure_trl(student: Any, teacher: Any, batch: Batch, steps: int, loaded: float, *, bf16: bool) -> None:
    """trl's own trainer; its steps are timed between the trainer's callbacks."""
    from statistics import median

    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    shifted = torch.full_like(batch.labels, IGNORE_INDEX)
    shifted[:, 1:] = batch.labels[:, :-1]
    fields = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": shifted}
    seconds, losses = [], []

    class Losses(TrainerCallback):
        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            losses.append(logs.get("loss"))

    with TemporaryDirectory() as folder:
        arguments = GKDConfig(
            output_dir=folder, max_steps=steps + 1, per_device_train_batch_size=len(batch.input_ids), bf16=bf16,
            use_cpu=True, lmbda=0.0, beta=0.0, temperature=1.0, report_to=[], save_strategy="no", logging_steps=1,
            learning_rate=1e-5, gradient_checkpointing=False, disable_tqdm=True,
        )  # fmt: skip
        trainer = GKDTrainer(
            model=student, teacher_model=teacher, args=arguments, data_collator=lambda rows: dict(fields),
            train_dataset=Dataset.from_dict({"messages": [[]] * 64 * len(batch.input_ids)}),
            processing_class=AutoTokenizer.from_pretrained(student.config.name_or_path),
            callbacks=[step_clock(seconds), Losses()],
        )  # fmt: skip
        trainer.train()
    report(seconds=median(seconds[1:]), loss=losses[0], loaded_gib=loaded)


def main(arguments: argparse.Namespace) -> None:
    table = Table(title=f"KD step, {arguments.batch} x {arguments.sequence} tokens", title_justify="left")
    for column in ("loss", "seconds", "ratio", "peak GiB", "ratio", "step's GiB", "ratio", "KL"):
        table.add_column(column, justify="left" if column == "loss" else "right")
    shape = arguments.base, arguments.batch, arguments.sequence, arguments.steps
    ours: list[float] = []
    for variant in arguments.losses:
        if variant == "trl" and not importlib.util.find_spec("trl"):
            continue
        found = run_child(__spec__.name, *shape, variant)
        figures = [found["seconds"], found["peak_gib"], found["peak_gib"] - found["loaded_gib"]]
        ours = ours or figures
        cells = [f"{cell:.2f}" for pair in zip(figures, ours, strict=True) for cell in (pair[0], pair[0] / pair[1])]
        table.add_row(VARIANTS[variant], *cells, f"{found['loss']:.5f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("base", type=Path, nargs="?")
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--sequence", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--losses", nargs="+", choices=VARIANTS, default=[*VARIANTS])
    options = parser.parse_args()
    if options.child:
        base, *shape, variant = options.child
        measure(variant, Path(base), *map(int, shape))
    elif options.base:
        main(options)
    else:
        parser.error("name the Hugging Face folder of a base")
