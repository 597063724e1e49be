"""The training loop on the tiny real model."""

import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from training_samples import PROMPT, ignore_metric, make_recipe

from registry.errors import UsageError
from registry.records import LabelSet, Record
from tasks.checkpoints.loading import load_tokenizer
from tasks.quant import qat
from tasks.quant.types import QuantType
from tasks.training.checkpoint import load_checkpoint, save_checkpoint
from tasks.training.examples import Example, build_examples, collate
from tasks.training.loop import History, TrainingData, learning_rate_factor, train
from tasks.training.models import load_model
from tasks.training.objective import Objective
from tasks.training.recipe import TrainingRecipe

Run = Callable[..., tuple[History, dict[str, Tensor]]]


@pytest.fixture(scope="module")
def examples(tiny_model_dir: Path, records: list[Record], labels: LabelSet) -> list[Example]:
    return build_examples(records[:12], load_tokenizer(tiny_model_dir), PROMPT, labels, max_tokens=512)


@pytest.fixture
def run(tiny_model_dir: Path, examples: list[Example], tmp_path: Path) -> Run:
    """Train the tiny model; gives the history and the weights."""

    def train_tiny(
        recipe: TrainingRecipe, *, rows: int = 8, on_metric: Callable[[str, float, int], None] = ignore_metric
    ) -> tuple[History, dict[str, Tensor]]:
        model = load_model(tiny_model_dir, bits=32)
        if recipe.qat:
            qat.attach(model, {name: QuantType.Q4_0 for name, weight in model.named_parameters() if weight.ndim == 2})
        if recipe.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        data = TrainingData(lambda epoch: examples[:rows], rows, examples[8:], 0)
        objective = Objective(model, head_dtype=torch.float32)
        checkpoint = tmp_path / "run.checkpoint.safetensors"
        history = train(objective, data, recipe, checkpoint=checkpoint, on_metric=on_metric)
        return history, {name: parameter.detach() for name, parameter in model.named_parameters()}

    return train_tiny


def test_a_handful_of_records_is_learnt_by_heart(run: Run) -> None:
    history, _ = run(make_recipe(epochs=40, learning_rate=2e-2, warmup_ratio=0.05))
    assert history.train_loss[0] == pytest.approx(math.log(448), rel=0.1)  # an untrained model
    assert history.train_loss[-1] < 1.0
    assert history.steps == len(history.train_loss) == 80


def test_the_same_seed_gives_the_same_weights(run: Run) -> None:
    (first, weights), (second, same) = run(make_recipe(batch_size=1)), run(make_recipe(batch_size=1))
    assert first.train_loss == second.train_loss
    assert all(torch.equal(weight, same[name]) for name, weight in weights.items())
    other, _ = run(make_recipe(batch_size=1, seed=8))
    assert other.train_loss != first.train_loss


def test_each_step_and_epoch_is_reported(run: Run) -> None:
    seen: list[tuple[str, int]] = []
    history, _ = run(make_recipe(epochs=2), on_metric=lambda name, value, step: seen.append((name, step)))
    assert [step for name, step in seen if name == "train_loss"] == [1, 2, 3, 4]
    assert [step for name, step in seen if name == "validation_loss"] == [2, 4] == history.validation_steps
    assert len(history.validation_loss) == 2
    assert history.seconds > 0 and history.tokens > 0


def test_training_ends_after_max_steps_and_is_validated_there(run: Run) -> None:
    history, _ = run(make_recipe(epochs=5, max_steps=3))
    assert history.steps == 3 and history.validation_steps == [2, 3]


def test_accumulated_small_batches_are_one_large_batch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each response token counts the same, whichever batch it is in: plain SGD subtracts the gradient itself."""
    monkeypatch.setattr(torch.optim, "AdamW", lambda parameters, lr, **_: torch.optim.SGD(parameters, lr))
    settings = {"epochs": 1, "max_grad_norm": 1e9, "learning_rate": 0.1, "warmup_ratio": 0.0}
    whole, weights = run(make_recipe(batch_size=8, accumulation=1, **settings))
    parts, same = run(make_recipe(batch_size=2, accumulation=4, **settings))
    assert parts.steps == whole.steps == 1
    assert parts.train_loss == pytest.approx(whole.train_loss, rel=1e-5)
    assert parts.tokens == whole.tokens
    for name, weight in weights.items():
        torch.testing.assert_close(same[name], weight, rtol=0, atol=1e-6, msg=name)


def test_a_step_does_not_reach_over_the_end_of_an_epoch(run: Run) -> None:
    history, _ = run(make_recipe(batch_size=2, accumulation=3, epochs=2))
    assert history.steps == 4  # four batches an epoch: three and one


def test_a_loss_that_is_no_number_ends_the_run_before_it_spoils_the_weights(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Objective.forward
    calls = []

    def broken(self: Objective, batch: object) -> Tensor:
        calls.append(batch)
        return forward(self, batch) * (float("nan") if len(calls) >= 2 else 1.0)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Objective, "forward", broken)
    with pytest.raises(
        UsageError, match="loss is not finite at step 2, first seen in the loss itself; lower learning_rate"
    ):
        run(make_recipe())


def test_the_first_bad_layer_is_named(tiny_model_dir: Path, examples: list[Example], tmp_path: Path) -> None:
    model = load_model(tiny_model_dir, bits=32)
    up = model.get_submodule("model.layers.1.mlp.up_proj")
    up.register_forward_hook(lambda module, inputs, output: output * float("inf"))
    data = TrainingData(lambda epoch: examples[:8], 8, examples[8:], 0)
    objective = Objective(model, head_dtype=torch.float32)
    with pytest.raises(UsageError, match=r"first seen in the output of model\.model\.layers\.1\.mlp\.up_proj"):
        train(objective, data, make_recipe(), checkpoint=tmp_path / "c.safetensors", on_metric=ignore_metric)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_gradient_that_overflows_ends_the_run_by_name(
    bad: float, tiny_model_dir: Path, examples: list[Example], tmp_path: Path
) -> None:
    model = load_model(tiny_model_dir, bits=32)
    model.get_submodule("model.layers.0.mlp.up_proj").weight.register_hook(lambda gradient: gradient * bad)
    data = TrainingData(lambda epoch: examples[:8], 8, examples[8:], 0)
    objective = Objective(model, head_dtype=torch.float32)
    with pytest.raises(UsageError, match=r"gradient of model\.model\.layers\.0\.mlp\.up_proj\.weight .* at step 1"):
        train(objective, data, make_recipe(), checkpoint=tmp_path / "c.safetensors", on_metric=ignore_metric)


def test_training_ends_when_validation_gets_no_better_and_keeps_the_best_weights(
    tiny_model_dir: Path, examples: list[Example], tmp_path: Path
) -> None:
    objective = Objective(load_model(tiny_model_dir, bits=32), head_dtype=torch.float32)
    data = TrainingData(lambda epoch: examples[:8], 8, examples[8:], 0)
    recipe = make_recipe(patience=2, learning_rate=2e-2, warmup_ratio=0.0, epochs=40)
    history = train(objective, data, recipe, checkpoint=tmp_path / "c.safetensors", on_metric=ignore_metric)
    lowest = min(history.validation_loss)
    assert history.steps < 80 and history.validation_loss.index(lowest) == len(history.validation_loss) - 3
    batch = collate(examples[8:], 0)
    with torch.no_grad():
        found = objective.eval()(batch).item() / batch.response_tokens
    assert found == pytest.approx(lowest, rel=1e-4)


def test_quantisation_sets_in_at_its_step(run: Run) -> None:
    settings = {"epochs": 2, "checkpoint_steps": 50}
    plain, _ = run(make_recipe(**settings))
    late, _ = run(make_recipe(qat=True, qat_start_step=2, **settings))
    early, _ = run(make_recipe(qat=True, **settings))
    assert late.train_loss[:2] == plain.train_loss[:2] and late.train_loss[2] != plain.train_loss[2]
    assert early.train_loss[0] != plain.train_loss[0]


def test_quantisation_that_would_never_set_in_is_refused(run: Run) -> None:
    with pytest.raises(UsageError, match="qat_start_step is 4, the run has 4 steps"):
        run(make_recipe(epochs=2, qat=True, qat_start_step=4))


def test_recomputed_activations_give_the_same_weights(run: Run) -> None:
    (_, kept), (_, recomputed) = run(make_recipe()), run(make_recipe(gradient_checkpointing=True))
    for name, weight in kept.items():
        torch.testing.assert_close(recomputed[name], weight, msg=name)


@given(total=st.integers(1, 5000), ratio=st.floats(0, 0.99))
def test_the_learning_rate_rises_once_and_falls_to_nothing(total: int, ratio: float) -> None:
    factors = [learning_rate_factor(step, total, ratio) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    peak = factors.index(max(factors))
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_the_learning_rate_peaks_after_the_warm_up_and_halves_halfway_down() -> None:
    assert learning_rate_factor(0, 110, 10 / 110) == pytest.approx(1 / 11)
    assert learning_rate_factor(10, 110, 10 / 110) == 1.0
    assert learning_rate_factor(60, 110, 10 / 110) == pytest.approx(0.5)
    assert learning_rate_factor(109, 110, 10 / 110) < 0.001
    assert learning_rate_factor(0, 1, 0.0) == 1.0


def test_a_checkpoint_is_safetensors_and_nothing_else(run: Run, tmp_path: Path) -> None:
    run(make_recipe(epochs=2, checkpoint_steps=3))  # of 4 steps
    path = tmp_path / "run.checkpoint.safetensors"
    content = path.read_bytes()
    assert int.from_bytes(content[:8], "little") < len(content) and content[8:9] == b"{"
    with safe_open(path, framework="pt") as file:
        kinds = {key.partition(".")[0] for key in file.keys()}  # noqa: SIM118
        assert kinds == {"weight", "optimizer", "random_state"}
        assert file.metadata().keys() == {"progress", "numbers"}
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_checkpoint_brings_back_weights_moments_and_random_state(tiny_model_dir: Path, tmp_path: Path) -> None:
    def moved(seed: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = load_model(tiny_model_dir, bits=32)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
        torch.manual_seed(seed)
        model(input_ids=torch.randint(6, 400, (2, 8))).logits.square().mean().backward()
        optimizer.step()
        return model, optimizer

    model, optimizer = moved(1)
    save_checkpoint(tmp_path / "c.safetensors", model, optimizer, {"step": 5})
    expected = torch.rand(3)
    other, other_optimizer = moved(2)
    assert load_checkpoint(tmp_path / "c.safetensors", other, other_optimizer) == {"step": 5}
    assert torch.equal(torch.rand(3), expected)
    for parameter, restored in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter, restored)
        for key, value in optimizer.state[parameter].items():
            assert torch.equal(value, other_optimizer.state[restored][key])
    assert len(load_file(tmp_path / "c.safetensors")) == 1 + 4 * len(list(model.parameters()))


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = load_model(tiny_model_dir, bits=32)
    assert load_checkpoint(tmp_path / "none.safetensors", model, torch.optim.AdamW(model.parameters())) is None


def test_a_run_says_from_where_it_goes_on(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run(make_recipe(epochs=2, checkpoint_steps=3))  # the checkpoint of step 3 is left to the caller
    with caplog.at_level(logging.INFO, logger="tasks"):
        history, _ = run(make_recipe(epochs=2, checkpoint_steps=3))
    assert "training goes on from step 3 of 4" in caplog.text
    assert history.steps == len(history.train_loss) == 4
