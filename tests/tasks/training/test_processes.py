"""Two processes on one machine train what one does."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from training_samples import LORA, PROMPT, ignore_metric, make_recipe, make_teaching, weights_in

from registry.errors import UsageError
from registry.records import LabelSet, Record
from tasks.quant.types import QuantType
from tasks.training.fit import history_file
from tasks.training.loop import History
from tasks.training.processes import TrainingJob, fit_in_processes

pytestmark = pytest.mark.timeout(300)
# Each start of two processes imports torch three times.
_either_way = pytest.mark.parametrize(
    "shard", [pytest.param(False, id="replicated"), pytest.param(True, id="sharded", marks=pytest.mark.slow)]
)


@pytest.fixture
def job(tiny_model_dir: Path, tmp_path: Path, records: list[Record], labels: LabelSet) -> TrainingJob:
    return TrainingJob(
        base=tiny_model_dir, out=tmp_path / "one", train_records=records[:11], validation_records=records[11:15],
        labels=labels, prompt=PROMPT, recipe=make_recipe(batch_size=2, accumulation=2, checkpoint_steps=50), types={},
    )  # fmt: skip


def in_two(job: TrainingJob, *, shard: bool = False, **changes: object) -> TrainingJob:
    recipe = job.recipe.model_copy(update={"processes": 2, "shard": shard})
    return job.model_copy(update={"out": job.out.parent / "two", "recipe": recipe, **changes})


@pytest.mark.parametrize(
    ("lora", "shard"),
    [
        pytest.param(None, False, id="full-replicated", marks=pytest.mark.slow),
        pytest.param(None, True, id="full-sharded"),
        pytest.param(LORA, False, id="lora-replicated", marks=pytest.mark.slow),
        pytest.param(LORA, True, id="lora-sharded", marks=pytest.mark.slow),
    ],
)
def test_two_processes_end_where_one_does(
    job: TrainingJob, lora: dict[str, object] | None, shard: bool, tiny_model_dir: Path
) -> None:
    if lora:
        recipe = make_recipe(**job.recipe.model_dump() | {"method": "lora", "lora": lora, "train_embedding": False})
        job = job.model_copy(update={"recipe": recipe, "teaching": make_teaching(tiny_model_dir)})
    alone: list[tuple[str, float, int]] = []
    seen: list[tuple[str, float, int]] = []
    one = fit_in_processes(job, lambda *metric: alone.append(metric))
    two = fit_in_processes(in_two(job, shard=shard), lambda *metric: seen.append(metric))
    assert ("processes", 2, 0) in seen
    norms, same = ([value for name, value, _ in found if name == "gradient_norm"] for found in (alone, seen))
    assert same == pytest.approx(norms, rel=1e-3) and len(norms) == one.steps
    assert two.train_loss == pytest.approx(one.train_loss, rel=1e-4)
    assert two.validation_loss == pytest.approx(one.validation_loss, rel=1e-4)
    assert (two.steps, two.tokens) == (one.steps, one.tokens)  # six batches an epoch, then the odd one
    assert [step for name, _, step in seen if name == "train_loss"] == list(range(1, one.steps + 1))
    expected = weights_in(job.out)
    for name, weight in weights_in(job.out.parent / "two").items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-2, atol=1e-4, msg=name)


@pytest.mark.slow
@_either_way
def test_two_processes_keep_answers_and_stop_early(job: TrainingJob, shard: bool, tiny_model_dir: Path) -> None:
    recipe = make_recipe(batch_size=2, accumulation=2, checkpoint_steps=2, patience=1, learning_rate=1e-2)
    job = job.model_copy(update={"recipe": recipe, "teaching": make_teaching(tiny_model_dir, cache_top_k=8)})
    one = fit_in_processes(job, ignore_metric)
    two = fit_in_processes(in_two(job, shard=shard), ignore_metric)
    assert two.train_loss == pytest.approx(one.train_loss, rel=1e-3)
    assert sorted(path.name for path in job.out.parent.glob("two*")) == ["two", "two.history.json", "two.job.json"]


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True], ids=["replicated", "sharded"])
def test_two_processes_that_were_stopped_go_on_from_their_checkpoint(job: TrainingJob, shard: bool) -> None:
    recipe = make_recipe(
        batch_size=2, accumulation=2, checkpoint_steps=3, epochs=6, processes=2, shard=shard, qat=True,
        precision="bf16", gradient_checkpointing=True,
    )  # fmt: skip
    layers = {f"model.layers.{layer}.mlp.up_proj.weight": QuantType.Q4_0 for layer in range(2)}
    types = layers | {"model.embed_tokens.weight": QuantType.Q8_0}
    job = job.model_copy(update={"recipe": recipe, "types": types})
    whole = fit_in_processes(job, ignore_metric)

    def stop(name: str, value: float, step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt

    job = job.model_copy(update={"out": job.out.parent / "stopped"})
    with pytest.raises(KeyboardInterrupt):
        fit_in_processes(job, stop)
    checkpoint = job.out.parent / "stopped.checkpoint.safetensors"
    assert checkpoint.exists() and not job.out.exists()
    steps: list[int] = []
    resumed = fit_in_processes(job, lambda name, value, step: steps.append(step))
    assert resumed.train_loss == pytest.approx(whole.train_loss, rel=1e-5)
    assert 1 not in steps and not checkpoint.exists()


@pytest.mark.slow
def test_an_error_in_a_process_is_the_callers(job: TrainingJob, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="max_tokens is 32; raise it"):
        fit_in_processes(in_two(job, recipe=make_recipe(max_tokens=32, accumulation=2, processes=2)), ignore_metric)
    assert not (tmp_path / "two").exists()


def test_a_job_outlives_its_file(job: TrainingJob, tiny_model_dir: Path) -> None:
    job = job.model_copy(update={"teaching": make_teaching(tiny_model_dir)})
    assert TrainingJob.model_validate_json(job.model_dump_json()) == job


@pytest.mark.slow
@_either_way
def test_the_first_bad_tensor_is_named_from_whichever_process_saw_it(
    job: TrainingJob, shard: bool, tmp_path: Path
) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    weights = weights_in(job.base)
    weights[name][3, 5] = float("nan")
    shutil.copytree(job.base, tmp_path / "base")
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=rf"not finite at step 1, first seen in the weight model\..*{name[:-7]}"):
        fit_in_processes(in_two(job, shard=shard, base=tmp_path / "base"), ignore_metric)


@pytest.mark.parametrize("changes", [{"processes": 1}, {"optimizer": "muon"}, {"load_bits": 4}], ids=str)
def test_what_cannot_be_sharded_is_refused(changes: dict[str, object]) -> None:
    lora = {"method": "lora", "lora": LORA, "train_embedding": False}
    with pytest.raises(ValueError, match="shard spreads a run over its processes"):
        make_recipe(**({"accumulation": 2, "processes": 2, "shard": True} | lora | changes))


def test_forward_passes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="make accumulation a multiple of processes"):
        make_recipe(accumulation=3, processes=2)


def test_history_is_what_the_file_says(job: TrainingJob) -> None:
    history = fit_in_processes(job, ignore_metric)
    assert History.model_validate_json(history_file(job.out).read_text()) == history
