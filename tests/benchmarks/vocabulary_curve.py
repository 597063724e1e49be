"""What dropping tokens of a trained model costs in accuracy and gains in size and speed, judged on its Q4_0 files.

    python -m tests.benchmarks.vocabulary_curve MODEL OUT --count PATH ... --judge FILE.jsonl ... [--texts FILE ...]
                                                [--words 0 2000 5000 10000] [--embedding q4_0] [--files FILE.gguf ...]
                                                [--speed DEVICE.json --plot FILE.svg]

MODEL is a trained Hugging Face folder with every token that it may lose, and the first row. It is pruned to what
--count uses and to as many common words, exported and asked every command of each --judge file of records. Of --texts,
which have no labels, the share is shown whose answer is the first file's. --files are further ones to judge. Files and
answers stay in OUT, where another run goes on; what `bench_device OUT/*.gguf --json DEVICE.json` says of their speed
goes into the plot beside their size.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from data_checks.contract import read_jsonl
from data_checks.texts import read_texts
from deployment.prompts.prompt import Prompt, chat_template
from deployment.runtimes.llama_server import LlamaServer
from registry.files import atomic_file
from registry.records import Record, Response, infer_label_set
from tasks.evaluation.comparison import compare_reports
from tasks.evaluation.report import EvaluationReport, evaluation_report, write_report
from tasks.gguf.container import GgufFile
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType
from tasks.vocabulary.corpus import Corpus, read_corpus
from tasks.vocabulary.pruning import prune_vocabulary
from tasks.vocabulary.recipe import VocabularyRecipe
from tests.benchmarks.ablation import points

_PROMPT = Prompt()
_SLOTS = 8
_CONTEXT = 512
_MAX_TOKENS = 192
_METRICS = ("intent_accuracy", "entity_f1", "exact_match", "oos_recall")


@dataclass(frozen=True)
class Judged:
    """Records, or texts whose answers are only held against the first file's, under the name of their file."""

    name: str
    records: list[Record]
    labelled: bool


@dataclass
class Candidate:
    gguf: Path
    reports: dict[str, EvaluationReport] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.gguf.stem

    @property
    def megabytes(self) -> float:
        return self.gguf.stat().st_size / 1e6

    def tokens(self) -> int:
        with GgufFile(self.gguf) as file:
            return file.tensors["token_embd.weight"].rows


def read_sets(files: Sequence[Path], texts: Sequence[Path], rows: int) -> list[Judged]:
    found = [Judged(file.stem, read_jsonl(file)[0], labelled=True) for file in files]
    nothing = Response(intent="out_of_scope", entities={})
    for file in texts:
        commands = read_texts([file])
        some = commands[:: max(1, len(commands) // rows)][:rows]
        found.append(Judged(file.stem, [Record(command=text, response=nothing) for text in some], labelled=False))
    return found


def candidate(options: argparse.Namespace, corpus: Corpus, words: int | None) -> Candidate:
    """The file with so many words; with all tokens for None."""
    gguf = options.out / ("all.gguf" if words is None else f"{words}-words.gguf")
    if not gguf.exists():
        with TemporaryDirectory(dir=options.out) as scratch:
            model = options.model
            if words is not None:
                model = Path(scratch) / "pruned"
                recipe = VocabularyRecipe(words=words, minimum_count=1)
                prune_vocabulary(options.model, model, corpus, recipe, prompt=_PROMPT)
            export_gguf(
                model, gguf, weights=QuantType.Q4_0, embedding=options.embedding, provenance={},
                chat_template=chat_template(_PROMPT),
            )  # fmt: skip
    return Candidate(gguf)


def evaluate(candidate: Candidate, sets: Sequence[Judged], out: Path, threads: int) -> None:
    labels = infer_label_set("curve", [record.response for judged in sets for record in judged.records])
    for judged in sets:
        path = out / f"{candidate.name}-{judged.name}.json"
        if not path.exists():
            with LlamaServer(
                candidate.gguf, prompt=_PROMPT, threads=threads, slots=_SLOTS, context=_CONTEXT,
                max_new_tokens=_MAX_TOKENS,
            ) as server:  # fmt: skip
                predictions = server.answer([record.command for record in judged.records])
            report = evaluation_report(
                judged.records, predictions, labels, model=candidate.name, sha256="", dataset=judged.name,
                dataset_sha256="",
            )  # fmt: skip
            write_report(report, json_path=path, html_path=None)
        candidate.reports[judged.name] = EvaluationReport.model_validate_json(path.read_text(encoding="utf-8"))


def table(judged: Judged, candidates: Sequence[Candidate]) -> Table:
    found = Table(title=f"{judged.name}, {len(judged.records)} commands", title_justify="left")
    columns = (*_METRICS, "exact − first", "95 % interval") if judged.labelled else ()
    for column in ("kept", "tokens", "MB", *columns, "answers of the first"):
        found.add_column(column, justify="right")
    first = candidates[0].reports[judged.name]
    for candidate in candidates:
        compared = compare_reports(first, candidate.reports[judged.name])
        metrics = {metric.metric: metric for metric in compared.metrics}
        cells = []
        if judged.labelled:
            exact = metrics["exact_match"]
            cells = [points(metrics[name].b) for name in _METRICS]
            cells += [
                points(exact.difference, "+.1f"),
                f"{points(exact.low, '+.1f')} … {points(exact.high, '+.1f')}",
            ]
        found.add_row(
            candidate.name, f"{candidate.tokens():,}", f"{candidate.megabytes:.1f}", *cells,
            f"{compared.same_answers / compared.rows:.1%}",
        )  # fmt: skip
    return found


def plot(
    path: Path,
    candidates: Sequence[Candidate],
    sets: Sequence[Judged],
    speeds: dict[str, float],
    apart: Sequence[Candidate] = (),
) -> None:
    """Entity F1 over size, and over tokens a second where ``speeds`` has a file by its name; a line goes through
    ``candidates``, those ``apart`` are of another training."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    places = {
        "file, MB": {each.name: each.megabytes for each in (*candidates, *apart)},
        "decoding, tokens/s, one thread": speeds,
    }
    for axes, (title, place) in zip(figure.subplots(1, 2, sharey=True), places.items(), strict=True):
        axes.set(xlabel=title, ylabel="entity F1, %" if axes.get_subplotspec().is_first_col() else "")
        for judged in (each for each in sets if each.labelled):
            for group, style in ((candidates, "o-"), (apart, "D")):
                shown = sorted((each for each in group if each.name in place), key=lambda each: place[each.name])
                across = [place[each.name] for each in shown]
                found = [100 * (each.reports[judged.name].metrics.entity_f1 or 0) for each in shown]
                axes.plot(across, found, style, label=judged.name if group is candidates else None)
                for each, *point in zip(shown, across, found, strict=True):
                    axes.annotate(each.name, point, xytext=(4, 4), textcoords="offset points", size=7, rotation=35)
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def main(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    corpus, sets = read_corpus(options.count), read_sets(options.judge, options.texts, options.rows)
    candidates = [candidate(options, corpus, words) for words in (None, *sorted(options.words, reverse=True))]
    others = [Candidate(file) for file in options.files]
    for each in (*candidates, *others):
        evaluate(each, sets, options.out, options.threads)
    console = Console(width=130)
    for each in sets:
        console.print(table(each, [*candidates, *others]))
    if options.plot:
        timed = json.loads(options.speed.read_text(encoding="utf-8")) if options.speed else []
        speeds = {row["file"]: row["decode tok/s"] for row in timed if row["threads"] == 1}
        plot(options.plot, candidates, sets, speeds, apart=others)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=Path, nargs="+", required=True)
    parser.add_argument("--judge", type=Path, nargs="+", required=True)
    parser.add_argument("--texts", type=Path, nargs="+", default=[])
    parser.add_argument("--rows", type=int, default=200, help="of each file of texts")
    parser.add_argument("--words", type=int, nargs="+", default=[0, 2000, 5000, 10_000])
    parser.add_argument("--embedding", type=QuantType, default=QuantType.Q4_0)
    parser.add_argument("--files", type=Path, nargs="+", default=[])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--speed", type=Path)
    parser.add_argument("--plot", type=Path)
    main(parser.parse_args())
