"""What dropping decoder layers of a trained model costs in accuracy and gains in size and speed, before and after KD.

    python -m tests.benchmarks.depth_curve TEACHER DATA OUT [--layers 16 14 12 10 8] [--profile gemma3-270m]
                                           [--max-steps N] [--rows 20] [--rounds 3] [--plot FILE.svg]

TEACHER is a trained Hugging Face folder of full depth, DATA holds train, validation and test.jsonl. For each number of
layers the student starts as the teacher without the others, learns from the whole one by the profile's student recipe,
and is exported with its types; the first row is such a student with all layers. Losses are per response token: before
of 32 validation records, after of all of them. Models and answers stay in OUT, where another run goes on.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from data_checks.contract import read_jsonl
from data_checks.sources import labels_beside
from deployment.prompts.prompt import chat_template
from flows.cli.console import set_up_logging
from flows.settings import Profile, load_profile
from registry.files import write_text
from registry.records import LabelSet, Record, infer_label_set
from tasks.checkpoints.architectures import describe
from tasks.checkpoints.files import read_json
from tasks.depth.pruning import DepthReport, prune_depth
from tasks.depth.recipe import DepthRecipe
from tasks.evaluation.comparison import compare_reports
from tasks.gguf.plan import plan_types
from tasks.gguf.writer import export_gguf
from tasks.training.fit import Teaching, fit, history_file
from tasks.training.loop import History
from tests.benchmarks import bench_device
from tests.benchmarks.ablation import points
from tests.benchmarks.decided import decided_profile
from tests.benchmarks.vocabulary_curve import Candidate, Judged, evaluate, plot

_METRICS = ("intent_accuracy", "entity_f1", "exact_match", "oos_recall")


@dataclass(frozen=True)
class Bench:
    """What all rows share."""

    teacher: Path
    out: Path
    profile: Profile
    labels: LabelSet
    splits: dict[str, list[Record]]

    @property
    def depth(self) -> int:
        return read_json(self.teacher / "config.json")["num_hidden_layers"]

    def report(self, layers: int) -> DepthReport | None:
        """What was measured before healing; None where no layer was dropped."""
        file = self.out / f"{layers}-depth.json"
        return DepthReport.model_validate_json(file.read_text(encoding="utf-8")) if file.exists() else None

    def history(self, layers: int) -> History:
        return History.model_validate_json(history_file(self._student(layers)).read_text(encoding="utf-8"))

    def candidate(self, layers: int) -> Candidate:
        gguf = self.out / f"{layers}-layers.gguf"
        if not gguf.exists():
            export = self.profile.export
            export_gguf(
                self._student(layers), gguf, weights=export.weights, embedding=export.embedding,
                chat_template=chat_template(self.profile.prompt),
            )  # fmt: skip
        return Candidate(gguf)

    def _student(self, layers: int) -> Path:
        """Healed by the whole teacher."""
        out = self.out / f"{layers}-student"
        if not out.exists():
            base, student, export = self._base(layers), self.profile.student, self.profile.export
            plan = plan_types(
                describe(read_json(base / "config.json")), weights=export.weights, embedding=export.embedding
            )
            fit(
                base, out, train_records=self.splits["train"], validation_records=self.splits["validation"],
                labels=self.labels, prompt=self.profile.prompt, recipe=student.training,
                types={name: tensor.type for name, tensor in plan.items()}, on_metric=_ignore,
                teaching=Teaching(self.teacher, student.distill, self.out / "answers"), title=out.name,
            )  # fmt: skip
        return out

    def _base(self, layers: int) -> Path:
        if layers == self.depth:
            return self.teacher
        out = self.out / f"{layers}-base"
        if not out.exists():
            report = prune_depth(
                self.teacher, out, self.splits["validation"], self.labels, DepthRecipe(layers=layers),
                prompt=self.profile.prompt,
            )  # fmt: skip
            write_text(self.out / f"{layers}-depth.json", report.model_dump_json(indent=1) + "\n")
        return out


def _ignore(name: str, value: float, step: int) -> None:
    pass


def open_bench(options: argparse.Namespace) -> Bench:
    files = {split: options.data / f"{split}.jsonl" for split in ("train", "validation", "test")}
    splits = {split: read_jsonl(file)[0] for split, file in files.items()}
    labels = labels_beside(list(files.values())) or infer_label_set(
        "depth", [record.response for records in splits.values() for record in records]
    )
    profile = decided_profile(load_profile(options.profile), options.teacher, options.out / "precision")
    if options.max_steps:
        training = profile.student.training.model_copy(update={"max_steps": options.max_steps})
        profile = profile.model_copy(update={"student": profile.student.model_copy(update={"training": training})})
    options.out.mkdir(parents=True, exist_ok=True)
    return Bench(options.teacher, options.out, profile, labels, splits)


def scores_table(report: DepthReport) -> Table:
    found = Table(title=f"loss {report.loss:.4f}; without one layer more by", title_justify="left")
    for layer in range(report.layers_before):
        found.add_column(str(layer), justify="right")
    found.add_row(*(f"{increase:.3f}" for increase in report.increases))
    return found


def curve_table(bench: Bench, candidates: dict[int, Candidate], judged: Judged, speeds: dict[str, float]) -> Table:
    found = Table(title=f"test, {len(judged.records)} commands", title_justify="left")
    for column in ("layers", "loss before", "after", "MB", "decode tok/s", *_METRICS, "exact − first", "95 % interval"):
        found.add_column(column, justify="right", no_wrap=True)
    found.add_column("dropped")
    first = next(iter(candidates.values())).reports[judged.name]
    for layers, candidate in candidates.items():
        report = bench.report(layers)
        compared = compare_reports(first, candidate.reports[judged.name])
        metrics = {metric.metric: metric for metric in compared.metrics}
        exact = metrics["exact_match"]
        found.add_row(
            str(layers),
            f"{report.removals[-1].loss:.4f}" if report else "",
            f"{bench.history(layers).validation_loss[-1]:.4f}",
            f"{candidate.megabytes:.1f}",
            f"{speeds[candidate.name]:.1f}",
            *(points(metrics[name].b) for name in _METRICS),
            points(exact.difference, "+.1f"),
            f"{points(exact.low, '+.1f')} … {points(exact.high, '+.1f')}",
            ", ".join(str(gone.layer) for gone in report.removals) if report else "",
        )
    return found


def decoding_speeds(candidates: Sequence[Candidate], bench: Bench, rows: int, rounds: int) -> dict[str, float]:
    """Tokens a second of each file on one thread, the files taking turns."""
    timed = [bench_device.Candidate(gguf=each.gguf, variant="plain", threads=1) for each in candidates]
    commands = [record.command for record in bench.splits["test"][:rows]]
    bench_device.measure(timed, bench.profile.prompt, commands, rounds)
    medians = [bench_device.medians(each) for each in timed]
    return {str(row["file"]): float(str(row["decode tok/s"])) for row in medians}


def main(options: argparse.Namespace) -> None:
    set_up_logging(verbose=False)
    bench = open_bench(options)
    judged = Judged("test", bench.splits["test"], labelled=True)
    candidates: dict[int, Candidate] = {}
    for layers in (bench.depth, *sorted(set(options.layers), reverse=True)):
        candidates[layers] = bench.candidate(layers)
        evaluate(candidates[layers], [judged], bench.out, threads=1)
    speeds = decoding_speeds([*candidates.values()], bench, options.rows, options.rounds)
    console = Console(width=170)
    measured = next(report for layers in candidates if (report := bench.report(layers)))
    console.print(scores_table(measured))
    console.print(curve_table(bench, candidates, judged, speeds))
    if options.plot:
        plot(options.plot, [*candidates.values()], [judged], speeds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, nargs="+", default=[16, 14, 12, 10, 8])
    parser.add_argument("--profile", default="gemma3-270m")
    parser.add_argument("--max-steps", type=int, help="of each healing; else the profile's")
    parser.add_argument("--rows", type=int, default=20, help="commands whose decoding is timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    main(parser.parse_args())
