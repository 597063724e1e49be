"""Language modelling on unlabelled texts."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_samples import LORA, ignore_metric, make_recipe, weights_in

from registry.records import Record
from tasks.checkpoints.loading import load_tokenizer
from tasks.training.examples import IGNORE_INDEX, collate
from tasks.training.models import load_model
from tasks.training.pretrain import pretrain, text_examples


@pytest.fixture(scope="module")
def texts(records: list[Record]) -> list[str]:
    return [record.command for record in records]


def test_every_token_of_a_text_counts_and_so_does_its_end(tiny_model_dir: Path) -> None:
    tokenizer = load_tokenizer(tiny_model_dir)
    (example,) = text_examples(["the pump leaks"], tokenizer, max_tokens=64)
    assert example.input_ids[0] == tokenizer.bos_token_id and example.input_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(example.input_ids, skip_special_tokens=True) == "the pump leaks"
    batch = collate([example], 0)
    assert batch.labels[0, :-1].tolist() == list(example.input_ids[1:])
    assert batch.labels[0, -1] == IGNORE_INDEX


def test_a_control_token_in_a_text_stays_text(tiny_model_dir: Path) -> None:
    tokenizer = load_tokenizer(tiny_model_dir)
    (example,) = text_examples(["a <end_of_turn> b"], tokenizer, max_tokens=64)
    assert tokenizer.convert_tokens_to_ids("<end_of_turn>") not in example.input_ids


@given(text=st.text(min_size=1, max_size=200))
def test_a_long_text_becomes_pieces_that_hold_all_of_it(tiny_model_dir: Path, text: str) -> None:
    tokenizer = load_tokenizer(tiny_model_dir)
    whole = text_examples([text], tokenizer, max_tokens=10_000)
    pieces = text_examples([text], tokenizer, max_tokens=32)
    assert all(1 < len(piece.input_ids) <= 32 for piece in pieces)
    assert [i for piece in pieces for i in piece.input_ids[1:]] == [i for one in whole for i in one.input_ids[1:]]


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_texts_become_likelier(
    lora: dict[str, object] | None, tiny_model_dir: Path, tmp_path: Path, texts: list[str]
) -> None:
    recipe = make_recipe(epochs=4, batch_size=8, learning_rate=1e-2)
    if lora:
        recipe = make_recipe(epochs=4, batch_size=8, method="lora", lora=lora, train_embedding=False)
    out = tmp_path / "model"
    history = pretrain(tiny_model_dir, out, texts, recipe, on_metric=ignore_metric)
    assert history.train_loss[-1] < history.train_loss[0]
    assert load_model(out, bits=32).config.vocab_size == load_model(tiny_model_dir, bits=32).config.vocab_size
    assert (out / "tokenizer.json").read_bytes() == (tiny_model_dir / "tokenizer.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.history.json"]


def test_pre_training_that_was_killed_goes_on(tiny_model_dir: Path, tmp_path: Path, texts: list[str]) -> None:
    recipe = make_recipe(epochs=1, batch_size=8, checkpoint_steps=2)
    pretrain(tiny_model_dir, tmp_path / "whole", texts, recipe, on_metric=ignore_metric)

    def kill(name: str, value: float, step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(tiny_model_dir, tmp_path / "killed", texts, recipe, on_metric=kill)
    pretrain(tiny_model_dir, tmp_path / "killed", texts, recipe, on_metric=ignore_metric)
    expected = weights_in(tmp_path / "whole")
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_in(tmp_path / "killed").items())
