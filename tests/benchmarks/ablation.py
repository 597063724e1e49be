"""What each part of the training is worth, judged on the GGUF files that it leads to.

    python -m tests.benchmarks.ablation BASE DATA OUT [--seeds 1 2] [--rows ROW ...] [--hold-out FIELD=VALUE ...]
                                        [--texts PATH ...] [--profile gemma3-270m]

BASE is a Hugging Face folder, DATA holds train, validation and test.jsonl. Records whose ``meta`` has FIELD=VALUE never
train; all of them together are the second set, of another kind than what was trained on. Trained models and answers
stay in OUT, so that a run goes on where another ended, and runs of other seeds may share it. Figures are means over the
seeds; F1 and exact match are compared with the first row's, by a paired bootstrap over the records.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from data_checks.contract import read_jsonl
from data_checks.texts import read_texts
from deployment.prompts.prompt import Prompt, chat_template
from deployment.runtimes.llama_server import LlamaServer
from flows.settings import Profile, load_profile
from registry.records import LabelSet, Record, infer_label_set
from tasks.checkpoints.architectures import describe
from tasks.checkpoints.files import read_json
from tasks.evaluation.bootstrap import Float, percentile_interval, resampled_ratios
from tasks.evaluation.metrics import Ratios, ratio_value, ratios
from tasks.evaluation.report import EvaluationReport, evaluation_report, write_report
from tasks.gguf.plan import plan_types
from tasks.gguf.writer import export_gguf
from tasks.quant import codecs
from tasks.quant.types import QuantType
from tasks.training.fit import Teaching, fit
from tasks.training.pretrain import pretrain
from tasks.training.recipe import LoraRecipe, TrainingRecipe
from tests.benchmarks.decided import decided_profile

PROMPT = Prompt()
GRID = QuantType.Q4_0  # of the weights of a student with QAT
COLUMNS = {
    "json_validity": "JSON", "intent_accuracy": "intent", "entity_f1": "F1", "exact_match": "exact",
    "oos_recall": "OOS recall", "oos_precision": "precision",
}  # fmt: skip
COMPARED = ("entity_f1", "exact_match")
SLOTS = 8  # answers at once, for speed; the same for every row


@dataclass(frozen=True)
class Row:
    """A file to judge: how its model came about, and its weights' type."""

    title: str
    weights: QuantType
    student: str | None = None  # of STUDENTS; None is the teacher itself
    teacher: str = "full"  # of full, lora, pretrained


@dataclass(frozen=True)
class Student:
    qat: bool
    distilled: bool
    grid: str = "file"
    embedding: QuantType = QuantType.Q8_0  # in a file of blocks


STUDENTS = {
    "ce": Student(qat=False, distilled=False),
    "ce-qat": Student(qat=True, distilled=False),
    "kd": Student(qat=False, distilled=True),
    "kd-qat": Student(qat=True, distilled=True),
    "kd-symmetric": Student(qat=True, distilled=True, grid="symmetric"),
    "ce-qat-small": Student(qat=True, distilled=False, embedding=QuantType.Q4_0),
    "kd-qat-small": Student(qat=True, distilled=True, embedding=QuantType.Q4_0),
}
ROWS = {
    "teacher-f16": Row("teacher, F16", QuantType.F16),
    "teacher-q8_0": Row("teacher, Q8_0", QuantType.Q8_0),
    "teacher-q4_0": Row("teacher, Q4_0 afterwards", QuantType.Q4_0),
    "ce-f16": Row("student, CE, F16", QuantType.F16, "ce"),
    "ce-q4_0": Row("student, CE, Q4_0 afterwards", QuantType.Q4_0, "ce"),
    "ce-qat-q4_0": Row("student, CE + QAT, Q4_0", QuantType.Q4_0, "ce-qat"),
    "kd-f16": Row("student, KD, F16", QuantType.F16, "kd"),
    "kd-q4_0": Row("student, KD, Q4_0 afterwards", QuantType.Q4_0, "kd"),
    "kd-symmetric-q4_0": Row("student, KD + QAT on absmax / 7 grid, Q4_0", QuantType.Q4_0, "kd-symmetric"),
    "kd-qat-q4_0": Row("student, KD + QAT, Q4_0", QuantType.Q4_0, "kd-qat"),
    "ce-qat-small": Row("student, CE + QAT, embedding Q4_0 too", QuantType.Q4_0, "ce-qat-small"),
    "kd-qat-small": Row("student, KD + QAT, embedding Q4_0 too", QuantType.Q4_0, "kd-qat-small"),
    "lora-q8_0": Row("teacher by LoRA r 64, Q8_0", QuantType.Q8_0, teacher="lora"),
    "pretrained-q8_0": Row("teacher after pre-training, Q8_0", QuantType.Q8_0, teacher="pretrained"),
}


def symmetric_grid(blocks: Tensor) -> Tensor:
    """Signed 4 bits with scale absmax / 7 in blocks of 32: the common grid that is not the file's."""
    scale = blocks.abs().amax(-1, keepdim=True) / 7
    return torch.where(scale > 0, (blocks / scale).round().clamp(-8, 7) * scale, 0.0)


@contextmanager
def other_grid() -> Iterator[None]:
    with patch.dict(codecs._BLOCK_CODECS, {QuantType.Q4_0: symmetric_grid}):
        yield


class Bench:
    """Everything that one seed's rows share; makes a model or a report where OUT does not hold it yet."""

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        self._base, self._out = options.base, options.out / f"seed-{seed}"
        self._texts: list[Path] = options.texts
        self._profile: Profile = decided_profile(load_profile(options.profile), options.base, options.out / "precision")
        self.seed = seed
        splits = {name: read_jsonl(options.data / f"{name}.jsonl")[0] for name in ("train", "validation", "test")}
        self._labels: LabelSet = infer_label_set("ablation", [r.response for rows in splits.values() for r in rows])
        held = [tuple(item.split("=", 1)) for item in options.hold_out]

        def is_held(record: Record) -> bool:
            return any(str(record.meta.get(field)) == value for field, value in held)

        self._train, self._validation = (
            [record for record in splits[name] if not is_held(record)] for name in ("train", "validation")
        )
        self.sets = {"test": [record for record in splits["test"] if not is_held(record)]}
        if other := [record for rows in splits.values() for record in rows if is_held(record)]:
            self.sets["other kinds"] = other

    def report(self, key: str, row: Row, name: str) -> EvaluationReport:
        path = self._out / "reports" / f"{key}-{name.replace(' ', '-')}.json"
        if not path.exists():
            records, evaluation = self.sets[name], self._profile.evaluation
            with LlamaServer(
                self._file(key, row), prompt=PROMPT, threads=evaluation.llama_threads, slots=SLOTS,
                context=evaluation.context, max_new_tokens=evaluation.max_new_tokens,
            ) as server:  # fmt: skip
                predictions = server.answer([record.command for record in records])
            made = evaluation_report(
                records, predictions, self._labels, model=row.title, sha256="", dataset=name, dataset_sha256=""
            )
            write_report(made, json_path=path, html_path=None)
        return EvaluationReport.model_validate_json(path.read_text(encoding="utf-8"))

    def _file(self, key: str, row: Row) -> Path:
        path = self._out / "files" / f"{key}.gguf"
        if not path.exists():
            teacher = self._teacher(row.teacher)
            model = teacher if row.student is None else self._student(row.student, teacher)
            blocks = STUDENTS[row.student].embedding if row.student else QuantType.Q8_0
            embedding = blocks if row.weights.is_block_type else row.weights
            export_gguf(
                model, path, weights=row.weights, embedding=embedding, provenance={},
                chat_template=chat_template(PROMPT),
            )  # fmt: skip
        return path

    def _teacher(self, kind: str) -> Path:
        recipe, base = self._profile.teacher.training, self._base
        if kind == "lora":
            lora = LoraRecipe(r=64, alpha=16, dropout=0.0)
            recipe = recipe.model_copy(update={"method": "lora", "lora": lora, "learning_rate": 2e-4})
        if kind == "pretrained":
            base = self._pretrained(recipe)
        return self._fit(f"teacher-{kind}", base, recipe)

    def _pretrained(self, recipe: TrainingRecipe) -> Path:
        out = self._out / "models" / "pretrained"
        if not out.exists():
            recipe = recipe.model_copy(update={"seed": self.seed, "epochs": 1, "max_steps": None})
            pretrain(self._base, out, read_texts(self._texts), recipe, on_metric=_ignore)
        return out

    def _student(self, name: str, teacher: Path) -> Path:
        student = STUDENTS[name]
        recipe = self._profile.student.training.model_copy(update={"qat": student.qat})
        cache = self._out / "models" / "answers"
        teaching = Teaching(teacher, self._profile.student.distill, cache) if student.distilled else None
        with other_grid() if student.grid == "symmetric" else nullcontext():
            return self._fit(f"student-{name}-of-{teacher.name}", teacher, recipe, teaching, student.embedding)

    def _fit(
        self,
        name: str,
        base: Path,
        recipe: TrainingRecipe,
        teaching: Teaching | None = None,
        embedding: QuantType = QuantType.Q8_0,
    ) -> Path:
        out = self._out / "models" / name
        if not out.exists():
            described = describe(read_json(base / "config.json"))
            plan = plan_types(described, weights=GRID, embedding=embedding)
            fit(
                base, out, train_records=self._train, validation_records=self._validation, labels=self._labels,
                prompt=PROMPT, recipe=recipe.model_copy(update={"seed": self.seed}),
                types={key: tensor.type for key, tensor in plan.items()}, on_metric=_ignore, teaching=teaching,
                title=name,
            )  # fmt: skip
        return out


def _ignore(name: str, value: float, step: int) -> None:
    pass


def pooled(reports: Sequence[EvaluationReport]) -> Ratios:
    """Right and possible counts of each record, summed over the reports of several seeds."""
    parts = [ratios([row.expected for row in report.rows], [row.answer for row in report.rows]) for report in reports]
    return {
        name: (np.sum([part[name][0] for part in parts], axis=0), np.sum([part[name][1] for part in parts], axis=0))
        for name in parts[0]
    }


def points(share: float | None, form: str = ".1f") -> str:
    return "–" if share is None else f"{100 * share:{form}}"


def result_table(name: str, benches: Sequence[Bench], rows: Sequence[str]) -> Table:
    seeds = f"seed {benches[0].seed}" if len(benches) == 1 else f"{len(benches)} seeds"
    table = Table(title=f"{name}, {len(benches[0].sets[name])} records, {seeds}", title_justify="left")
    table.add_column("file", no_wrap=True)
    for title in (*COLUMNS.values(), *(f"{COLUMNS[metric]} − first (95 %)" for metric in COMPARED)):
        table.add_column(title, justify="right", no_wrap=True)
    first: Ratios | None = None
    for key in rows:
        sums = pooled([bench.report(key, ROWS[key], name) for bench in benches])
        first = first or sums
        table.add_row(
            ROWS[key].title,
            *(points(ratio_value(*sums[metric])) for metric in COLUMNS),
            *("" if sums is first else difference(sums[metric], first[metric]) for metric in COMPARED),
        )
    return table


def difference(ours: tuple[Float, Float], first: tuple[Float, Float]) -> str:
    """In points, with its interval by a paired bootstrap over the records."""
    change = (ratio_value(*ours) or 0.0) - (ratio_value(*first) or 0.0)
    low, high = percentile_interval(resampled_ratios([ours])[0] - resampled_ratios([first])[0]) or (None, None)
    return f"{points(change, '+.1f')} ({points(low, '+.1f')} … {points(high, '+.1f')})"


def main(options: argparse.Namespace) -> None:
    import flows.cli.console

    flows.cli.console.set_up_logging(verbose=False)
    benches = [Bench(options, seed) for seed in options.seeds]
    for key in options.rows:  # every set of a row before the next row: it is the training that takes hours
        for bench in benches:
            for name in bench.sets:
                bench.report(key, ROWS[key], name)
    for name in benches[0].sets:
        Console(width=160).print(result_table(name, benches, options.rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, default=[key for key in ROWS if ROWS[key].teacher != "pretrained"]
    )
    parser.add_argument("--hold-out", nargs="+", default=[])
    parser.add_argument("--texts", type=Path, nargs="+", default=[])
    parser.add_argument("--profile", default="gemma3-270m")
    main(parser.parse_args())
