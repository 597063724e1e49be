"""What a pruned vocabulary costs and covers, and whether pruning leaves the tokens of texts alone.

    python -m tests.benchmarks.bench_vocabulary BASE [--count PATH ...] [--judge PATH ...] [--words 10000]

BASE is a Hugging Face folder. PATHs are those of prune-vocab; without --count the shipped sample counts. Out-of-scope
records and the test split never count: the curve judges on them, and on --judge. Then BASE is pruned with --words, and
every text is tokenised by both runtimes before and after: texts of kept tokens must have the same, others come back.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from data_checks.contract import read_jsonl
from data_checks.sample import SAMPLE_DIR
from deployment.prompts.prompt import Prompt
from deployment.runtimes.llama_server import LlamaServer
from registry.records import OUT_OF_SCOPE, answer_text
from tasks.checkpoints.architectures import describe
from tasks.checkpoints.loading import load_tokenizer
from tasks.gguf.plan import plan_types
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType
from tasks.vocabulary.base import BaseVocabulary, load_base
from tasks.vocabulary.corpus import Corpus, read_corpus
from tasks.vocabulary.counting import Counts, count_corpus, encoded
from tasks.vocabulary.pruning import prune_vocabulary
from tasks.vocabulary.recipe import VocabularyRecipe
from tasks.vocabulary.selection import Selection, select
from tests.benchmarks.tokenizer_parity import group, made_up_texts

_WORDS = (0, 1000, 2000, 3000, 5000, 7500, 10_000, 15_000, 20_000)
_MINIMUM_COUNTS = (1, 2)
_ENTRY_BYTES = 16  # a token in a GGUF header: length, score, type; its text comes on top
_SHOWN = 5


@dataclass(frozen=True)
class Judged:
    """Texts that were not counted, as token ids of the base."""

    name: str
    ids: Sequence[Sequence[int]]

    def covered(self, kept: set[int]) -> tuple[float, float]:
        """The share of the tokens that stay, and of the texts all of whose tokens stay."""
        tokens = sum(map(len, self.ids))
        return sum(id_ in kept for ids in self.ids for id_ in ids) / tokens, sum(map(kept.issuperset, self.ids)) / len(
            self.ids
        )


def corpora(count: Sequence[Path], judge: Sequence[Path]) -> tuple[Corpus, dict[str, list[str]]]:
    """What counts, and the texts to judge on by name."""
    read = read_corpus(count)
    assert read.labels is not None, "--count needs labelled records too"
    labels = read.labels
    held_out = [record.command for record in read.records if record.response.intent == OUT_OF_SCOPE]
    judged: dict[str, list[str]] = {"test": []}
    for file in (path / "test.jsonl" for path in count if (path / "test.jsonl").is_file()):
        for record in read_jsonl(file)[0]:
            if record.response.intent == OUT_OF_SCOPE:
                held_out.append(record.command)
            else:
                judged["test"] += [record.command, answer_text(record.response, labels)]
    judged["out of scope"] = held_out
    for path in judge:
        judged[path.stem] = list(read_corpus([path]).texts)
    in_scope = [record for record in read.records if record.response.intent != OUT_OF_SCOPE]
    return Corpus(records=in_scope, labels=labels, texts=read.texts), {name: own for name, own in judged.items() if own}


def megabytes(base: BaseVocabulary, chosen: Selection, embedding: QuantType) -> float:
    """Size of the Q4_0 file, less a few kilobytes of other metadata."""
    plan = plan_types(
        describe({**base.config, "vocab_size": len(chosen.ids)}), weights=QuantType.Q4_0, embedding=embedding
    )
    header = sum(_ENTRY_BYTES + len(base.pieces[id_].encode()) for id_ in chosen.ids)
    return (sum(tensor.nbytes for tensor in plan.values()) + header) / 1e6


def curve(base: BaseVocabulary, tokenizer: Any, counts: Counts, judged: Sequence[Judged], console: Console) -> None:
    table = Table(title="share of tokens, and of whole texts, that stay as they are", title_justify="left")
    for column in ("words", "count", "tokens", "for merging", "MB, q8_0", "MB, q4_0", "counted"):
        table.add_column(column, justify="right")
    for texts in judged:
        table.add_column(texts.name, justify="right")
    used = counts.total
    for minimum in _MINIMUM_COUNTS:
        for words in _WORDS:
            chosen = select(base, tokenizer, counts, VocabularyRecipe(words=words, minimum_count=minimum))
            kept = set(chosen.ids)
            inside = sum(number for id_, number in used.items() if id_ in kept) / used.total()
            sizes = (megabytes(base, chosen, type_) for type_ in (QuantType.Q8_0, QuantType.Q4_0))
            table.add_row(
                f"{words:,}", str(minimum), f"{len(kept):,}", f"{chosen.reasons['merging']:,}",
                *(f"{size:.1f}" for size in sizes), f"{100 * inside:.2f}",
                *("{:.2%} {:.1%}".format(*texts.covered(kept)) for texts in judged),
            )  # fmt: skip
    console.print(table)


def same_tokens(base_dir: Path, corpus: Corpus, texts: Sequence[str], words: int, console: Console) -> int:
    """Prune, export both folders, compare all texts in both runtimes; the number of faults."""
    with TemporaryDirectory() as scratch:
        pruned = Path(scratch) / "pruned"
        recipe = VocabularyRecipe(words=words, minimum_count=1)
        report = prune_vocabulary(base_dir, pruned, corpus, recipe, prompt=Prompt())
        console.print(report.model_dump_json(indent=1), markup=False)
        tokenizers = [load_tokenizer(folder) for folder in (base_dir, pruned)]
        hf = [list(encoded(tokenizer, texts)) for tokenizer in tokenizers]
        llama = [_llama_tokens(tokenizer, Path(scratch) / "small.gguf", texts) for tokenizer in tokenizers]
        before, after = (tokenizer.get_vocab() for tokenizer in tokenizers)
    new_ids = {before[token]: id_ for token, id_ in after.items()}
    table = Table(
        title=f"{len(texts):,} texts before and after pruning to {report.tokens:,} tokens", title_justify="left"
    )
    for column in ("runtime", "must be equal", "are", "others", "come back"):
        table.add_column(column, justify="left" if column == "runtime" else "right")
    faults = []
    for name, (old, new) in (("Hugging Face", hf), ("llama.cpp", llama)):
        kept = [place for place, ids in enumerate(old) if new_ids.keys() >= set(ids)]
        others = [place for place, ids in enumerate(old) if not new_ids.keys() >= set(ids)]
        unequal = [place for place in kept if [new_ids[id_] for id_ in old[place]] != new[place]]
        lost = [p for p in others if tokenizers[1].decode(new[p]) != texts[p].replace("\u2581", " ")]
        counted = (len(kept), len(kept) - len(unequal), len(others), len(others) - len(lost))
        table.add_row(name, *(f"{number:,}" for number in counted))
        faults += [texts[place] for place in unequal + lost]
    console.print(table)
    apart = [place for place in range(len(texts)) if hf[1][place] != llama[1][place]]
    known = sum(group(texts[place]).startswith("U+2581") or hf[0][place] != llama[0][place] for place in apart)
    console.print(
        f"{len(texts) - len(apart):,} texts have the same tokens in both after pruning; {known:,} of the other "
        f"{len(apart):,} differ before it or hold U+2581"
    )
    for text in faults[:_SHOWN]:
        console.print(repr(text), markup=False)
    return len(faults) + len(apart) - known


def _llama_tokens(tokenizer: Any, gguf: Path, texts: Sequence[str]) -> list[list[int]]:
    export_gguf(Path(tokenizer.name_or_path), gguf, weights=QuantType.Q4_0, embedding=QuantType.Q4_0)
    with LlamaServer(gguf, prompt=Prompt(), slots=1, context=256) as server:
        return server.tokenize_all(texts, tokenizer.bos_token_id)


def every_text(corpus: Corpus, judged: dict[str, list[str]]) -> Iterator[str]:
    assert corpus.labels is not None
    for record in corpus.records:
        yield from (record.command, answer_text(record.response, corpus.labels))
    yield from corpus.texts
    for texts in judged.values():
        yield from texts


def main(options: argparse.Namespace) -> int:
    console = Console(width=160)
    corpus, judged = corpora(options.count, options.judge)
    base, tokenizer = load_base(options.base), load_tokenizer(options.base)
    counts = count_corpus(tokenizer, corpus, Prompt())
    outside = [Judged(name, list(encoded(tokenizer, texts))) for name, texts in judged.items()]
    curve(base, tokenizer, counts, outside, console)
    texts = [*dict.fromkeys(every_text(corpus, judged)), *made_up_texts(options.generated)]
    return same_tokens(options.base, corpus, texts, options.words, console)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--count", type=Path, nargs="+", default=[SAMPLE_DIR])
    parser.add_argument("--judge", type=Path, nargs="+", default=[])
    parser.add_argument("--words", type=int, default=10_000)
    parser.add_argument("--generated", type=int, default=2_000)
    raise SystemExit(min(main(parser.parse_args()), 1))
