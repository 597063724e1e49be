"""A training step with and without QAT, and records per second against the transformers Trainer.

    python -m tests.benchmarks.bench_training BASE [--steps 6] [--batch 16] [--train-embedding]

BASE is a Hugging Face folder. All train on the shipped sample with AdamW over fp32 weights, in bf16 autocast where this
machine is faster in it, and, unless told otherwise, with a frozen embedding. The two kinds of step take turns in one
process, so that a busy machine slows both.
"""

import argparse
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from data_checks.contract import read_jsonl
from data_checks.sample import SAMPLE_DIR
from deployment.prompts.prompt import Prompt
from registry.records import load_label_set
from tasks.checkpoints.architectures import describe
from tasks.checkpoints.files import read_json
from tasks.checkpoints.loading import load_tokenizer
from tasks.gguf.plan import plan_types
from tasks.quant import qat
from tasks.quant.types import QuantType
from tasks.training.examples import IGNORE_INDEX, Batch, Example, build_examples, collate, epoch_batches
from tasks.training.models import load_model
from tasks.training.objective import Objective
from tests.benchmarks.child import report, run_child, step_clock
from tests.benchmarks.decided import trains_in_bf16


def sample_examples(base: Path) -> list[Example]:
    labels = load_label_set(SAMPLE_DIR / "labels.toml")
    records, _ = read_jsonl(SAMPLE_DIR / "train.jsonl", labels)
    return build_examples(records, load_tokenizer(base), Prompt(), labels, max_tokens=512)


class Trainee:
    """A model in training, one step at a time; with a ``teacher``, half of the loss is its divergence from that."""

    def __init__(
        self, base: Path, quant: QuantType | None, train_embedding: bool = False, teacher: Path | None = None
    ) -> None:
        model = load_model(base, bits=32)
        model.get_input_embeddings().requires_grad_(train_embedding)
        if quant is not None:
            described = describe(read_json(base / "config.json"))
            plan = plan_types(described, weights=quant, embedding=QuantType.Q8_0)
            qat.attach(model, {name: tensor.type for name, tensor in plan.items()})
        self._bf16 = trains_in_bf16(base)
        distil: dict[str, Any] = {}
        if teacher:
            distil = {
                "teacher": load_model(teacher, bits=16 if self._bf16 else 32).eval(),
                "temperature": 2.0,
                "alpha_kd": 0.5,
                "alpha_ce": 0.5,
            }
        head_dtype = torch.bfloat16 if self._bf16 else torch.float32
        self._objective = Objective(model, head_dtype=head_dtype, **distil).train()
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)
        self._parameters = parameters
        self.seconds: list[float] = []

    def step(self, batch: Batch) -> None:
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            loss = self._objective(batch)
        (loss / batch.response_tokens).backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.seconds.append(time.perf_counter() - started)


def measure_qat(base: Path, steps: int, batch_size: int, train_embedding: bool) -> None:
    examples = sample_examples(base)
    batches = list(epoch_batches(examples, batch_size=batch_size, pad_id=0, seed=1, epoch=0))[: steps + 1]
    trainees = {
        name: Trainee(base, quant, train_embedding)
        for name, quant in (("plain", None), ("q4_0", QuantType.Q4_0), ("q8_0", QuantType.Q8_0))
    }
    for batch in batches:
        for trainee in trainees.values():
            trainee.step(batch)
    report(**{name: median(trainee.seconds[1:]) for name, trainee in trainees.items()})


def measure_gemmill(base: Path, steps: int, batch_size: int, train_embedding: bool) -> None:
    batches = list(epoch_batches(sample_examples(base), batch_size=batch_size, pad_id=0, seed=1, epoch=0))
    trainee = Trainee(base, None, train_embedding)
    for batch in batches[: steps + 1]:
        trainee.step(batch)
    report(records_per_second=batch_size * steps / sum(trainee.seconds[1:]))


def measure_trainer(base: Path, steps: int, batch_size: int, train_embedding: bool) -> None:
    """The transformers Trainer as it comes: shuffled rows padded to the longest, logits at every position."""
    from transformers import Trainer, TrainingArguments

    model = load_model(base, bits=32)
    model.get_input_embeddings().requires_grad_(train_embedding)
    seconds: list[float] = []

    def collated(rows: list[Example]) -> dict[str, torch.Tensor]:
        batch = collate(rows, 0)
        labels = torch.full_like(batch.labels, IGNORE_INDEX)
        labels[:, 1:] = batch.labels[:, :-1]  # transformers shifts by itself
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": labels}

    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=steps + 1, per_device_train_batch_size=batch_size, bf16=trains_in_bf16(base),
            use_cpu=True, report_to=[], save_strategy="no", learning_rate=1e-5, disable_tqdm=True,
            remove_unused_columns=False,
        )  # fmt: skip
        examples: Any = sample_examples(base)
        trainer = Trainer(
            model=model, args=arguments, data_collator=collated, train_dataset=examples, callbacks=[step_clock(seconds)]
        )
        trainer.train()
    report(records_per_second=batch_size * steps / sum(seconds[1:]))


_MEASURES = {"qat": measure_qat, "gemmill": measure_gemmill, "trainer": measure_trainer}


def main(options: argparse.Namespace) -> None:
    shape = options.base, options.steps, options.batch, int(options.train_embedding)
    found = {name: run_child(__spec__.name, name, *shape) for name in _MEASURES}
    steps = Table(title=f"training step, batch {options.batch}", title_justify="left")
    for column in ("step", "seconds", "against plain"):
        steps.add_column(column, justify="left" if column == "step" else "right")
    for name in ("plain", "q4_0", "q8_0"):
        seconds = found["qat"][name]
        steps.add_row(name, f"{seconds:.2f}", f"{seconds / found['qat']['plain']:.3f}")
    speed = Table(title="fine-tuning", title_justify="left")
    for column in ("loop", "records/s", "peak GiB"):
        speed.add_column(column, justify="left" if column == "loop" else "right")
    for name in ("gemmill", "trainer"):
        speed.add_row(name, f"{found[name]['records_per_second']:.2f}", f"{found[name]['peak_gib']:.2f}")
    Console().print(steps, speed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("base", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--train-embedding", action="store_true")
    chosen = parser.parse_args()
    if chosen.child:
        name, base, *shape = chosen.child
        steps, batch_size, train_embedding = map(int, shape)
        _MEASURES[name](Path(base), steps, batch_size, bool(train_embedding))
    elif chosen.base:
        main(chosen)
    else:
        parser.error("name the Hugging Face folder of a base")
