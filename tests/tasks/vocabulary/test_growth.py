"""A pruned model gets back the tokens that new texts need, and keeps what it learnt."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deployment.prompts.prompt import Prompt
from registry.errors import UsageError
from registry.records import LabelSet, Record
from tasks.checkpoints.files import VOCABULARY_MAP, read_json
from tasks.forensics.repair import repair_norms
from tasks.vocabulary.corpus import Corpus
from tasks.vocabulary.growth import grow_vocabulary
from tasks.vocabulary.pruning import PruneReport
from tasks.vocabulary.recipe import VocabularyRecipe

_EMBEDDING = "model.embed_tokens.weight"
_RECIPE = VocabularyRecipe(words=0, minimum_count=1)


@pytest.fixture(scope="module")
def trained(pruned: tuple[Path, PruneReport], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pruned model with every weight moved a little, in a folder as training writes it: without the map."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    shutil.copytree(pruned[0], folder, ignore=shutil.ignore_patterns(VOCABULARY_MAP))
    weights = load_file(pruned[0] / "model.safetensors")
    torch.manual_seed(0)
    moved = {name: values + 0.01 * torch.randn_like(values) for name, values in weights.items()}
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def new_corpus(many_records: list[Record], labels: LabelSet) -> Corpus:
    return Corpus(records=many_records[200:230], labels=labels, texts=["a conveyor, <table>"])


def test_missing_tokens_come_from_the_base_and_all_else_from_the_model(
    trained: Path, base_dir: Path, new_corpus: Corpus, tmp_path: Path
) -> None:
    report = grow_vocabulary(trained, base_dir, tmp_path / "grown", new_corpus, _RECIPE, prompt=Prompt())
    model, base, grown = (load_file(d / "model.safetensors") for d in (trained, base_dir, tmp_path / "grown"))
    vocabularies = [read_json(d / "tokenizer.json")["model"]["vocab"] for d in (trained, base_dir, tmp_path / "grown")]
    for piece, id_ in vocabularies[2].items():
        source = (model, vocabularies[0]) if piece in vocabularies[0] else (base, vocabularies[1])
        assert torch.equal(grown[_EMBEDDING][id_], source[0][_EMBEDDING][source[1][piece]]), piece
    assert all(torch.equal(grown[name], values) for name, values in model.items() if name != _EMBEDDING)
    assert vocabularies[0].keys() < vocabularies[2].keys()
    assert report.missing.keys() <= vocabularies[2].keys() - vocabularies[0].keys()
    assert report.missing["<table>"] == 1 and report.coverage == 1
    assert report.kept["model"] == report.tokens_before == len(vocabularies[0])
    assert report.proof.unchanged == report.proof.texts and report.proof.logit_difference <= 1e-5


def test_special_tokens_are_named_by_their_new_ids(
    trained: Path, base_dir: Path, new_corpus: Corpus, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    grow_vocabulary(trained, base_dir, tmp_path / "grown", new_corpus, _RECIPE, prompt=Prompt())
    tokenizer, config = AutoTokenizer.from_pretrained(tmp_path / "grown"), read_json(tmp_path / "grown" / "config.json")
    assert config["eos_token_id"] == [tokenizer.convert_tokens_to_ids(token) for token in ("<eos>", "<end_of_turn>")]
    assert (
        config["vocab_size"]
        == len(tokenizer)
        == load_file(tmp_path / "grown" / "model.safetensors")[_EMBEDDING].shape[0]
    )


def test_rows_of_a_short_base_become_as_long_as_the_model_s(
    trained: Path, base_dir: Path, new_corpus: Corpus, tmp_path: Path
) -> None:
    shutil.copytree(base_dir, tmp_path / "base")
    halves = {name: values.bfloat16() for name, values in load_file(base_dir / "model.safetensors").items()}
    save_file(halves, tmp_path / "base" / "model.safetensors")
    grow_vocabulary(trained, tmp_path / "base", tmp_path / "grown", new_corpus, _RECIPE, prompt=Prompt())
    grown = load_file(tmp_path / "grown" / "model.safetensors")[_EMBEDDING]
    ids = [read_json(d / "tokenizer.json")["model"]["vocab"]["<table>"] for d in (base_dir, tmp_path / "grown")]
    assert torch.equal(grown[ids[1]], halves[_EMBEDDING][ids[0]].float())


def test_a_model_that_needs_nothing_stays_as_it_is(
    trained: Path, base_dir: Path, corpus: Corpus, tmp_path: Path
) -> None:
    report = grow_vocabulary(trained, base_dir, tmp_path / "grown", corpus, _RECIPE, prompt=Prompt())
    assert report.tokens == report.tokens_before and not report.missing
    before, after = (load_file(d / "model.safetensors") for d in (trained, tmp_path / "grown"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_base_is_refused(
    pruned: tuple[Path, PruneReport], base_dir: Path, corpus: Corpus, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"tokens that .* lacks"):
        grow_vocabulary(base_dir, pruned[0], tmp_path / "grown", corpus, _RECIPE, prompt=Prompt())


def test_an_embedding_of_another_scale_is_refused(
    trained: Path, base_dir: Path, corpus: Corpus, tmp_path: Path
) -> None:
    weights = load_file(trained / "model.safetensors")
    weights["model.layers.1.post_feedforward_layernorm.weight"][3] = 60_000.0
    shutil.copytree(trained, tmp_path / "outlier")
    save_file(weights, tmp_path / "outlier" / "model.safetensors", metadata={"format": "pt"})
    assert repair_norms(tmp_path / "outlier", tmp_path / "repaired").scale < 0.5
    with pytest.raises(UsageError, match="times the scale"):
        grow_vocabulary(tmp_path / "repaired", base_dir, tmp_path / "grown", corpus, _RECIPE, prompt=Prompt())
