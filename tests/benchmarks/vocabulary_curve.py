"""What dropping tokens of a trained model costs in accuracy and gains in size and speed, judged on its Q4_0 files.

    python -m tests.benchmarks.vocabulary_curve MODEL OUT --count PATH ... --judge FILE.jsonl ... [--texts FILE ...]
                                                [--words 0 2000 5000 10000] [--embedding q4_0]

MODEL is a trained Hugging Face folder with every token that it may lose, and the first row. It is pruned to what
--count uses and to as many common words, exported and asked every command of each --judge file of records. Of --texts,
which have no labels, the share is shown whose answer is the first file's. Files and answers stay in OUT, where another
run goes on; `bench_device OUT/*.gguf` times them.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from data_checks.contract import Record, Response, infer_label_set, read_jsonl
from data_checks.texts import read_texts
from deployment.prompt import Prompt, chat_template
from tasks.evaluation.comparison import compare_reports
from tasks.evaluation.llama_server import LlamaServer
from tasks.evaluation.report import EvaluationReport, evaluation_report, write_report
from tasks.gguf_export.files import read_json
from tasks.gguf_export.writer import export_gguf
from tasks.quant.types import QuantType
from tasks.vocabulary.corpus import Corpus, read_corpus
from tasks.vocabulary.pruning import prune_vocabulary
from tasks.vocabulary.recipe import VocabularyRecipe

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
    name: str
    gguf: Path
    tokens: int
    reports: dict[str, EvaluationReport] = field(default_factory=dict)


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
    name = "all" if words is None else f"{words}-words"
    gguf = options.out / f"{name}.gguf"
    config = options.out / f"{name}.config.json"
    if not gguf.exists():
        with TemporaryDirectory(dir=options.out) as scratch:
            model = options.model
            if words is not None:
                model = Path(scratch) / "pruned"
                recipe = VocabularyRecipe(words=words, minimum_count=1)
                prune_vocabulary(options.model, model, corpus, recipe, prompt=_PROMPT)
            config.write_bytes((model / "config.json").read_bytes())
            export_gguf(
                model, gguf, weights=QuantType.Q4_0, embedding=options.embedding, provenance={},
                chat_template=chat_template(_PROMPT),
            )  # fmt: skip
    return Candidate(name, gguf, read_json(config)["vocab_size"])


def evaluate(candidate: Candidate, sets: Sequence[Judged], threads: int) -> None:
    for judged in sets:
        path = candidate.gguf.with_name(f"{candidate.name}-{judged.name}.json")
        if not path.exists():
            with LlamaServer(
                candidate.gguf, prompt=_PROMPT, threads=threads, slots=_SLOTS, context=_CONTEXT,
                max_new_tokens=_MAX_TOKENS,
            ) as server:  # fmt: skip
                predictions = server.answer([record.command for record in judged.records])
            labels = infer_label_set(judged.name, [record.response for record in judged.records])
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
            cells = [_points(metrics[name].b) for name in _METRICS]
            cells += [
                _points(exact.difference, "+.1f"),
                f"{_points(exact.low, '+.1f')} … {_points(exact.high, '+.1f')}",
            ]
        found.add_row(
            candidate.name, f"{candidate.tokens:,}", f"{candidate.gguf.stat().st_size / 1e6:.1f}", *cells,
            f"{compared.same_answers / compared.rows:.1%}",
        )  # fmt: skip
    return found


def _points(share: float | None, form: str = ".1f") -> str:
    return "–" if share is None else f"{100 * share:{form}}"


def main(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    corpus, sets = read_corpus(options.count), read_sets(options.judge, options.texts, options.rows)
    candidates = [candidate(options, corpus, words) for words in (None, *sorted(options.words, reverse=True))]
    for each in candidates:
        evaluate(each, sets, options.threads)
    console = Console(width=130)
    for each in sets:
        console.print(table(each, candidates))


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
    parser.add_argument("--threads", type=int, default=1)
    main(parser.parse_args())
