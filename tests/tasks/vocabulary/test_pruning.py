"""A pruned folder is the model that it was made from: weights, ids, tokens, logits, and what llama.cpp makes of it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from deployment.prompts.prompt import Prompt, encode_answer, encode_prompt
from deployment.prompts.turns import Turns
from deployment.runtimes.llama_server import LlamaServer
from registry.errors import GemmillError, UsageError
from registry.records import LabelSet, Record, answer_text
from tasks.checkpoints.files import VOCABULARY_MAP, read_json
from tasks.gguf.reader import import_gguf
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType
from tasks.verification.verify import PARITY_TEXTS, verify_gguf
from tasks.vocabulary import pruning
from tasks.vocabulary.corpus import Corpus
from tasks.vocabulary.pruning import PruneReport, prune_vocabulary
from tasks.vocabulary.recipe import VocabularyRecipe
from tasks.vocabulary.selection import Selection

_EMBEDDING = "model.embed_tokens.weight"
_RECIPE = VocabularyRecipe(words=0, minimum_count=1)
# No U+2581, which decodes to a space in every Gemma, and no half of a surrogate pair.
_CHARACTERS = st.characters(exclude_characters="▁", exclude_categories=["Cs"])
_SENTENCES = st.lists(
    st.sampled_from(["leak", " the", "Pump ", "SG-4", "02", "\n", "  ", '{"intent": "', "é", "漏れ", "🔧", "\u0301"])
    | st.text(_CHARACTERS, max_size=6)
).map("".join)


def kept(folder: Path) -> list[int]:
    return read_json(folder / VOCABULARY_MAP)["kept"]


def tokens(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


@pytest.fixture(scope="module")
def tokenizers(base_dir: Path, pruned: tuple[Path, PruneReport]) -> tuple[Any, Any]:
    return AutoTokenizer.from_pretrained(base_dir), AutoTokenizer.from_pretrained(pruned[0])


@pytest.fixture(scope="module")
def servers(base_dir: Path, pruned: tuple[Path, PruneReport]) -> Iterator[tuple[LlamaServer, LlamaServer]]:
    """llama.cpp on the files of the base and of the pruned folder."""
    files = []
    for folder in (base_dir, pruned[0]):
        file = base_dir.parent / f"{folder.name}.gguf"
        export_gguf(folder, file, weights=QuantType.F32, embedding=QuantType.F32)
        files.append(file)
    with (
        LlamaServer(files[0], prompt=Prompt(), slots=1) as before,
        LlamaServer(files[1], prompt=Prompt(), slots=1) as after,
    ):
        yield before, after


def test_rows_and_all_other_tensors_keep_their_values(base_dir: Path, pruned: tuple[Path, PruneReport]) -> None:
    folder, report = pruned
    before, after = load_file(base_dir / "model.safetensors"), load_file(folder / "model.safetensors")
    assert torch.equal(after.pop(_EMBEDDING), before.pop(_EMBEDDING)[kept(folder)])
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in after)
    assert report.tokens == len(kept(folder)) < report.tokens_before == 900
    assert report.embedding_bytes == report.tokens * 64 * 4
    assert sum(report.kept.values()) == report.tokens


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_stay_as_found_and_shards_become_one_file(
    dtype: torch.dtype, base_dir: Path, corpus: Corpus, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(base_dir, dtype=dtype)
    shutil.copytree(base_dir, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    model.save_pretrained(tmp_path / "base", max_shard_size="100KB")
    assert (tmp_path / "base" / "model.safetensors.index.json").is_file()
    prune_vocabulary(tmp_path / "base", tmp_path / "out", corpus, _RECIPE, prompt=Prompt())
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(after[_EMBEDDING], model.get_input_embeddings().weight[kept(tmp_path / "out")])
    assert {values.dtype for values in after.values()} == {dtype}


def test_a_stored_output_matrix_is_left_to_the_tied_embedding(base_dir: Path, corpus: Corpus, tmp_path: Path) -> None:
    shutil.copytree(base_dir, tmp_path / "base")
    weights = load_file(base_dir / "model.safetensors")
    save_file({**weights, "lm_head.weight": weights[_EMBEDDING].clone()}, tmp_path / "base" / "model.safetensors")
    prune_vocabulary(tmp_path / "base", tmp_path / "out", corpus, _RECIPE, prompt=Prompt())
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == weights.keys()


def test_special_tokens_are_named_by_their_new_ids(pruned: tuple[Path, PruneReport], tokenizers: tuple) -> None:
    config, tokenizer = read_json(pruned[0] / "config.json"), tokenizers[1]
    ids = tokenizer.convert_tokens_to_ids
    assert config["vocab_size"] == len(tokenizer) == pruned[1].tokens
    assert config["bos_token_id"] == ids("<bos>") == tokenizer.bos_token_id == tokenizer("x")["input_ids"][0]
    assert config["eos_token_id"] == [ids("<eos>"), ids("<end_of_turn>")]
    assert config["pad_token_id"] == ids("<pad>") == tokenizer.pad_token_id
    assert read_json(pruned[0] / "generation_config.json")["eos_token_id"] == config["eos_token_id"]
    vocabulary = tokenizer.get_vocab()
    assert not {"<unused7>", "<table>"} & vocabulary.keys()
    assert {"<mask>", "\n", "\n\n", "▁▁", "▁▁▁", "\t"} <= vocabulary.keys()
    assert (pruned[0] / "README.md").is_file()


def test_logits_of_kept_tokens_are_those_of_the_whole_model(
    base_dir: Path, pruned: tuple[Path, PruneReport], tokenizers: tuple, many_records: list[Record], labels: LabelSet
) -> None:
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (base_dir, pruned[0]))
    for record in many_records[:12]:
        old, new = (
            torch.tensor(
                [
                    encode_prompt(tokenizer, Prompt(), record.command)
                    + encode_answer(tokenizer, Prompt(), answer_text(record.response, labels))
                ]
            )
            for tokenizer in tokenizers
        )
        with torch.no_grad():
            difference = (before(old).logits[..., kept(pruned[0])] - after(new).logits).abs().max()
        assert difference <= 1e-5
    assert pruned[1].proof.logit_difference <= 1e-5 and pruned[1].proof.prompts == 8


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=_SENTENCES)
def test_any_text_has_its_tokens_or_comes_back_from_others(
    text: str, pruned: tuple[Path, PruneReport], tokenizers: tuple, servers: tuple[LlamaServer, LlamaServer]
) -> None:
    new_ids = {old: new for new, old in enumerate(kept(pruned[0]))}
    hf = tuple(tokens(tokenizer, text) for tokenizer in tokenizers)
    llama = tuple(server.tokenize(text) for server in servers)
    for before, after in (hf, llama):
        if set(before) <= new_ids.keys():
            assert after == [new_ids[id_] for id_ in before]
    assert tokenizers[1].decode(hf[1]) == text
    assert hf[1] == llama[1] or hf[0] != llama[0]


@pytest.mark.parametrize(
    "text", ["x" * 10_000, "漏" * 3_000, "e\u0301" * 1_000, "🔧" * 500, "\x00\x01\x7f\r\n", *PARITY_TEXTS]
)
def test_odd_texts_come_back_with_the_tokens_of_llama_cpp(
    text: str, tokenizers: tuple, servers: tuple[LlamaServer, LlamaServer]
) -> None:
    ids = tokens(tokenizers[1], text)
    assert tokenizers[1].decode(ids) == text
    assert servers[1].tokenize(text) == ids


def test_a_pruned_folder_converts_verifies_and_comes_back(
    pruned: tuple[Path, PruneReport], corpus: Corpus, tmp_path: Path
) -> None:
    gguf = tmp_path / "pruned.gguf"
    export_gguf(pruned[0], gguf, weights=QuantType.F32, embedding=QuantType.F32)
    verified = verify_gguf(gguf, pruned[0], [record.command for record in corpus.records[:3]])
    assert verified.passed and verified.prompt_parity
    import_gguf(gguf, tmp_path / "back")
    ours, back = (read_json(folder / "tokenizer.json") for folder in (pruned[0], tmp_path / "back"))
    assert back["model"]["vocab"] == ours["model"]["vocab"]
    assert back["model"]["merges"] == ours["model"]["merges"]
    assert (
        read_json(tmp_path / "back" / "config.json")["eos_token_id"]
        == read_json(pruned[0] / "config.json")["eos_token_id"]
    )


def test_a_folder_with_a_sentencepiece_model_alone_is_pruned_too(
    base_dir: Path, corpus: Corpus, tmp_path: Path
) -> None:
    import sentencepiece

    folder = tmp_path / "base"
    shutil.copytree(base_dir, folder)
    (folder / "tokenizer.json").unlink()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([record.command for record in corpus.records] * 30),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe", vocab_size=380, byte_fallback=True, add_dummy_prefix=False, pad_id=0, eos_id=1, bos_id=2,
        unk_id=3, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2, num_threads=1,
        pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>", unk_piece="<unk>",
        control_symbols=["<start_of_turn>", "<end_of_turn>"],
    )  # fmt: skip
    report = prune_vocabulary(folder, tmp_path / "out", corpus, _RECIPE, prompt=Prompt())
    assert report.tokens <= 380 and report.proof.unchanged == report.proof.texts
    assert not (tmp_path / "out" / "tokenizer.model").exists()


def test_rare_tokens_of_texts_go_and_those_of_records_stay(
    base_dir: Path, corpus: Corpus, pruned: tuple[Path, PruneReport], tmp_path: Path
) -> None:
    recipe = VocabularyRecipe(words=0, minimum_count=4)
    report = prune_vocabulary(base_dir, tmp_path / "out", corpus, recipe, prompt=Prompt())
    assert report.kept["labelled"] == pruned[1].kept["labelled"] and report.kept["texts"] < pruned[1].kept["texts"]
    assert report.coverage < 1 == pruned[1].coverage
    assert report.proof.respelled > 0 and report.proof.unchanged >= 2 * len(corpus.records)


def test_nothing_is_written_where_the_proof_fails(
    base_dir: Path, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_few(*arguments: Any) -> Selection:
        chosen = select(*arguments)
        pieces = {piece: id_ for piece, id_ in arguments[0].ids.items() if len(piece) == 2}
        lost = next(id_ for id_ in chosen.ids if id_ in pieces.values() and id_ not in arguments[2].total)
        return Selection(ids=tuple(id_ for id_ in chosen.ids if id_ != lost), reasons=chosen.reasons)

    select = pruning.select
    monkeypatch.setattr(pruning, "select", too_few)
    with pytest.raises(GemmillError, match="differently; nothing was written"):
        prune_vocabulary(base_dir, tmp_path / "out", corpus, _RECIPE, prompt=Prompt())
    assert not list(tmp_path.iterdir())


def test_an_output_matrix_that_is_not_the_embedding_loses_the_same_rows(
    base_dir: Path, corpus: Corpus, tmp_path: Path
) -> None:
    """Whatever config.json says of tying, transformers takes an output matrix that is stored."""
    shutil.copytree(base_dir, tmp_path / "base")
    weights = load_file(base_dir / "model.safetensors")
    output = weights[_EMBEDDING].flip(0).contiguous()
    save_file({**weights, "lm_head.weight": output}, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    report = prune_vocabulary(tmp_path / "base", tmp_path / "out", corpus, _RECIPE, prompt=Prompt())
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(after["lm_head.weight"], output[kept(tmp_path / "out")])
    assert torch.equal(after[_EMBEDDING], weights[_EMBEDDING][kept(tmp_path / "out")])
    assert report.proof.logit_difference <= 1e-5


def test_a_tokenizer_without_the_turns_is_refused(base_dir: Path, corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no token <\|im_start\|>"):
        prune_vocabulary(base_dir, tmp_path / "out", corpus, _RECIPE, prompt=Prompt(turns=Turns.CHATML))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda weights: {**weights, _EMBEDDING: weights[_EMBEDDING][:-5].contiguous()},
            r"embed_tokens.* asks for \(900",
        ),
        (
            lambda weights: {name.removeprefix("model."): values for name, values in weights.items()},
            r"lacks model\.embed_tokens\.weight and \d+ more and holds embed_tokens\.weight",
        ),
    ],
    ids=["short embedding", "no prefix"],
)
def test_weights_that_do_not_fit_their_config_are_refused(
    change: Callable[[dict], dict], reason: str, base_dir: Path, corpus: Corpus, tmp_path: Path
) -> None:
    shutil.copytree(base_dir, tmp_path / "base")
    save_file(change(load_file(base_dir / "model.safetensors")), tmp_path / "base" / "model.safetensors")
    with pytest.raises(UsageError, match=reason):
        prune_vocabulary(tmp_path / "base", tmp_path / "out", corpus, _RECIPE, prompt=Prompt())
    assert not (tmp_path / "out").exists()


def test_a_multimodal_model_is_refused(base_dir: Path, corpus: Corpus, tmp_path: Path) -> None:
    shutil.copytree(base_dir, tmp_path / "base")
    config = {"model_type": "gemma3", "text_config": read_json(base_dir / "config.json")}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="is a multimodal model; take a folder of its text part"):
        prune_vocabulary(tmp_path / "base", tmp_path / "out", corpus, _RECIPE, prompt=Prompt())


@pytest.mark.parametrize("name", ["model.gguf", "adapter"])
def test_what_is_no_folder_of_a_whole_model_is_refused(name: str, corpus: Corpus, tmp_path: Path) -> None:
    if name == "adapter":
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
    else:
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(UsageError, match="is no Hugging Face folder of a whole model"):
        prune_vocabulary(tmp_path / name, tmp_path / "out", corpus, _RECIPE, prompt=Prompt())


def test_another_architecture_is_refused(base_dir: Path, corpus: Corpus, tmp_path: Path) -> None:
    shutil.copytree(base_dir, tmp_path / "base")
    config = {**read_json(base_dir / "config.json"), "model_type": "mamba"}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="only gemma3_text"):
        prune_vocabulary(tmp_path / "base", tmp_path / "out", corpus, _RECIPE, prompt=Prompt())
