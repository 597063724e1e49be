"""A tiny Gemma 3 whose vocabulary has everything that Gemma's has, and the same with the tokens of a few records."""

import json
from pathlib import Path

import pytest
from gguf.constants import TokenType

from data_checks.contract import read_jsonl
from data_checks.sample import SAMPLE_DIR
from deployment.prompts.prompt import Prompt
from registry.records import LabelSet, Record
from tasks.bases.scratch import build_scratch_base
from tasks.bases.spec import ScratchBase
from tasks.checkpoints.files import read_json
from tasks.tokenizers.reading import ADDED_TOKEN_SCORE, load_vocabulary
from tasks.tokenizers.tokenizer_json import tokenizer_json
from tasks.vocabulary.corpus import Corpus
from tasks.vocabulary.pruning import PruneReport, prune_vocabulary
from tasks.vocabulary.recipe import VocabularyRecipe

USER_DEFINED = ("\n", "\n\n", "  ", "   ", "\t", "<table>")


@pytest.fixture(scope="session")
def many_records(labels: LabelSet) -> list[Record]:
    return read_jsonl(SAMPLE_DIR / "train.jsonl", labels)[0][:400]


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory: pytest.TempPathFactory, many_records: list[Record], labels: LabelSet) -> Path:
    """Two layers with random weights; tokens trained on 400 records, user-defined and unused ones. Do not change it."""
    spec = ScratchBase(
        kind="scratch", vocab_size=900, hidden_size=64, intermediate_size=64, layers=2, heads=2, kv_heads=1,
        head_dim=32, seed=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("vocabulary") / "base"
    build_scratch_base(spec, many_records, labels, folder)
    vocabulary = load_vocabulary(folder, read_json(folder / "config.json"))
    last = [id_ for id_, token in enumerate(vocabulary.tokens) if len(token) > 1 and vocabulary.types[id_] == 1]
    for id_, token in zip(last[-8:], [*USER_DEFINED, "<mask>", "<unused7>"], strict=True):
        vocabulary.tokens[id_], vocabulary.scores[id_] = token, ADDED_TOKEN_SCORE
        vocabulary.types[id_] = int(TokenType.USER_DEFINED if token in USER_DEFINED else TokenType.CONTROL)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(vocabulary)))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nTiny.\n")
    return folder


@pytest.fixture(scope="session")
def corpus(many_records: list[Record], labels: LabelSet) -> Corpus:
    return Corpus(
        records=many_records[:12],
        labels=labels,
        texts=["Grinder SG-402\thas a leak.\n\nAgain.", *(record.command for record in many_records[12:20])],
    )


@pytest.fixture(scope="session")
def pruned(base_dir: Path, corpus: Corpus) -> tuple[Path, PruneReport]:
    """The base with the tokens of ``corpus`` and of twenty words. Do not change it."""
    out = base_dir.parent / "pruned"
    return out, prune_vocabulary(base_dir, out, corpus, VocabularyRecipe(words=20, minimum_count=1), prompt=Prompt())
