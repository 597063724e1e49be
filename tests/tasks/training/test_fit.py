"""From a base folder to a trained one, in every way that a recipe can ask for."""

import json
import math
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from training_samples import LORA, PROMPT, make_recipe, make_teaching, run_fit, weights_in

from deployment.prompts.prompt import chat_template
from registry.artifacts import Artifact
from registry.errors import UsageError
from registry.records import LabelSet, Record
from tasks.bases.scratch import build_scratch_base
from tasks.bases.spec import ScratchBase
from tasks.checkpoints.loading import load_tokenizer
from tasks.distill.kd import likeliest_tokens
from tasks.gguf.container import GgufFile
from tasks.gguf.writer import export_gguf
from tasks.quant.codecs import simulate_quantize
from tasks.quant.types import QuantType
from tasks.training import objective
from tasks.training.fit import history_file
from tasks.training.loop import History
from tasks.training.models import load_model
from tasks.training.recipe import TrainingRecipe
from tasks.verification.checks import greedy_check

ROWS = 16  # of which four validate: three steps an epoch
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def few(records: list[Record]) -> list[Record]:
    return records[:ROWS]


class Killed(Exception):
    pass


def kill_at(step: int) -> Any:
    def on_metric(name: str, value: float, at: int) -> None:
        if at == step:
            raise Killed

    return on_metric


RECIPES = {
    "full": make_recipe(),
    "full, embedding frozen": make_recipe(train_embedding=False),
    "full, qat": make_recipe(qat=True),
    "full, qat, bf16": make_recipe(qat=True, precision="bf16"),
    "full, patience": make_recipe(patience=1),
    "full, recomputed": make_recipe(gradient_checkpointing=True, qat=True),
    "full, varied": make_recipe(vary_entities="same_intent"),
    "lora": make_recipe(method="lora", lora=LORA | {"dropout": 0.1}, train_embedding=False),
    "lora, qat": make_recipe(method="lora", lora=LORA, train_embedding=False, qat=True),
    "lora, qat, bf16": make_recipe(method="lora", lora=LORA, train_embedding=False, qat=True, precision="bf16"),
    "lora, qat over 16 bits": make_recipe(
        method="lora", lora=LORA, train_embedding=False, qat=True, load_bits=16, precision="bf16"
    ),
    "lora over 16 bits": make_recipe(method="lora", lora=LORA, train_embedding=False, load_bits=16, precision="bf16"),
}


def test_the_same_seed_gives_the_same_bytes(
    tiny_model_dir: Path, tmp_path: Path, few: list[Record], labels: LabelSet
) -> None:
    recipe = next(iter(RECIPES.values()))
    for name in ("a", "b"):
        run_fit(tiny_model_dir, tmp_path / name, few, labels, recipe)
    assert Artifact.of("model", tmp_path / "a").sha256 == Artifact.of("model", tmp_path / "b").sha256


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_each_recipe_trains_a_folder_that_loads_and_has_learnt(
    recipe: TrainingRecipe, tiny_model_dir: Path, tmp_path: Path, few: list[Record], labels: LabelSet
) -> None:
    out = tmp_path / "model"
    history = run_fit(tiny_model_dir, out, few, labels, recipe)
    assert history.validation_loss[-1] < history.train_loss[0]
    assert History.model_validate_json(history_file(out).read_text()) == history
    assert (out / "chat_template.jinja").read_text() == chat_template(PROMPT)
    assert (out / "tokenizer.json").read_bytes() == (tiny_model_dir / "tokenizer.json").read_bytes()
    assert (out / "adapter").is_dir() == (recipe.method == "lora")
    left = sorted(path.name for path in tmp_path.iterdir())  # no checkpoint, nothing half-written
    assert left == ["model", "model.history.json"]
    model, before, after = load_model(out, bits=32), weights_in(tiny_model_dir), weights_in(out)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert before.keys() == after.keys()
    assert torch.equal(before[EMBEDDING], after[EMBEDDING]) != recipe.train_embedding
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(before[name], after[name])
    on_grid = torch.equal(simulate_quantize(after[name], QuantType.Q4_0), after[name])
    assert on_grid == (recipe.qat and recipe.method == "full")


@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_trained_folder_is_greedy_whatever_its_base_samples(
    name: str, tiny_model_dir: Path, tmp_path: Path, few: list[Record], labels: LabelSet
) -> None:
    base = Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))
    own = json.loads((base / "generation_config.json").read_text())
    sampling = {"do_sample": True, "top_k": 64, "top_p": 0.95, "temperature": 0.7}
    (base / "generation_config.json").write_text(json.dumps(own | sampling))
    run_fit(base, tmp_path / "model", few, labels, RECIPES[name].model_copy(update={"epochs": 1}))
    found = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert found["eos_token_id"] == own["eos_token_id"]
    assert {key: value for key, value in found.items() if "token_id" not in key} == {"do_sample": True, "top_k": 1}
    out = export_gguf(tmp_path / "model", tmp_path / "out.gguf", weights=QuantType.F32).path
    with GgufFile(out) as file:
        assert greedy_check(file).passed


@pytest.mark.parametrize("name", ["full", "full, qat", "full, patience", "full, varied", "lora", "lora, qat"])
def test_a_run_that_was_killed_ends_with_the_weights_of_one_that_was_not(
    name: str, tiny_model_dir: Path, tmp_path: Path, few: list[Record], labels: LabelSet
) -> None:
    recipe = RECIPES[name].model_copy(update={"checkpoint_steps": 2})  # of 6 steps
    whole = run_fit(tiny_model_dir, tmp_path / "whole", few, labels, recipe)
    out = tmp_path / "killed"
    for step in (4, 6):  # the second time from the checkpoint of the first
        with pytest.raises(Killed):
            run_fit(tiny_model_dir, out, few, labels, recipe, on_metric=kill_at(step))
        assert not out.exists()
    resumed = run_fit(tiny_model_dir, out, few, labels, recipe)
    assert resumed.model_dump(exclude={"seconds"}) == whole.model_dump(exclude={"seconds"})
    expected = weights_in(tmp_path / "whole")
    assert all(torch.equal(weight, expected[key]) for key, weight in weights_in(out).items())
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_distillation_that_was_killed_goes_on_with_the_answers_that_it_kept(
    tiny_model_dir: Path, tmp_path: Path, few: list[Record], labels: LabelSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(checkpoint_steps=2)
    teaching = make_teaching(tiny_model_dir, cache_top_k=8)
    whole = run_fit(
        tiny_model_dir, tmp_path / "whole", few, labels, recipe, teaching=teaching._replace(cache=tmp_path / "a")
    )
    teaching, out = teaching._replace(cache=tmp_path / "b"), tmp_path / "killed"
    with pytest.raises(Killed):
        run_fit(tiny_model_dir, out, few, labels, recipe, on_metric=kill_at(4), teaching=teaching)
    asked = []
    monkeypatch.setattr(
        objective, "likeliest_tokens", lambda *arguments: asked.append(1) or likeliest_tokens(*arguments)
    )
    resumed = run_fit(tiny_model_dir, out, few, labels, recipe, teaching=teaching)
    assert len(asked) == 1  # the checkpoint is of two steps, an epoch has three
    assert resumed.train_loss == whole.train_loss
    expected = weights_in(tmp_path / "whole")
    assert all(torch.equal(weight, expected[key]) for key, weight in weights_in(out).items())


def test_a_student_learns_as_well_from_kept_answers(
    tiny_model_dir: Path, tmp_path: Path, few: list[Record], labels: LabelSet
) -> None:
    run_fit(tiny_model_dir, tmp_path / "teacher", few, labels, make_recipe(epochs=4))
    losses = {}
    for top_k in (None, 64):
        teaching = make_teaching(tmp_path / "teacher", cache_top_k=top_k)._replace(cache=tmp_path / "answers")
        history = run_fit(tiny_model_dir, tmp_path / str(top_k), few, labels, make_recipe(epochs=3), teaching=teaching)
        losses[top_k] = history.validation_loss[-1]
    assert losses[64] == pytest.approx(losses[None], rel=0.02)


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "muon"])
@pytest.mark.parametrize("name", ["full", "lora"])
def test_other_optimizers_train_and_outlive_a_kill(
    name: str, optimizer: str, tiny_model_dir: Path, tmp_path: Path, few: list[Record], labels: LabelSet
) -> None:
    if optimizer == "adamw_8bit":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed; pip install 'gemmill[bitsandbytes]'")
    recipe = RECIPES[name].model_copy(update={"optimizer": optimizer, "checkpoint_steps": 2})
    whole = run_fit(tiny_model_dir, tmp_path / "whole", few, labels, recipe)
    plain = run_fit(tiny_model_dir, tmp_path / "plain", few, labels, RECIPES[name])
    if optimizer == "adamw_8bit":
        assert whole.validation_loss[-1] == pytest.approx(plain.validation_loss[-1], rel=0.05)
    assert whole.validation_loss[-1] < whole.train_loss[0]
    with pytest.raises(Killed):
        run_fit(tiny_model_dir, tmp_path / "killed", few, labels, recipe, on_metric=kill_at(4))
    run_fit(tiny_model_dir, tmp_path / "killed", few, labels, recipe)
    expected = weights_in(tmp_path / "whole")
    assert all(torch.equal(weight, expected[key]) for key, weight in weights_in(tmp_path / "killed").items())


def test_a_student_learns_from_teachers_of_every_precision(
    tiny_model_dir: Path, tmp_path: Path, few: list[Record], labels: LabelSet
) -> None:
    """A student that starts as its teacher: the first loss is the divergence that the teacher's rounding makes."""
    first = {}
    for bits, precision in ((32, "fp32"), (16, "bf16")):
        recipe = make_recipe(epochs=1, precision=precision)
        teaching = make_teaching(tiny_model_dir, teacher_bits=bits, alpha_ce=0.0, alpha_kd=1.0)
        history = run_fit(tiny_model_dir, tmp_path / str(bits), few, labels, recipe, teaching=teaching)
        first[bits] = history.train_loss[0]
        assert all(math.isfinite(loss) for loss in history.train_loss)
        assert math.isfinite(history.validation_loss[0])
    assert first[32] == pytest.approx(0.0, abs=1e-6)
    assert first[16] < 1e-3


def test_a_student_comes_closer_to_its_teacher(
    tiny_model_dir: Path, tmp_path: Path, few: list[Record], labels: LabelSet
) -> None:
    run_fit(tiny_model_dir, tmp_path / "teacher", few, labels, make_recipe(epochs=4))
    teaching = make_teaching(tmp_path / "teacher", alpha_ce=0.0, alpha_kd=1.0)
    recipe = make_recipe(epochs=6, qat=True)
    history = run_fit(tiny_model_dir, tmp_path / "student", few, labels, recipe, teaching=teaching)
    assert history.train_loss[-1] < 0.5 * history.train_loss[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bits", [4, 8])
def test_a_teacher_of_few_bits_needs_no_network(
    bits: int,
    tiny_model_dir: Path,
    tmp_path: Path,
    few: list[Record],
    labels: LabelSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed; pip install 'gemmill[bitsandbytes]'")

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"something wants the network: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    teaching = make_teaching(tiny_model_dir, teacher_bits=bits, alpha_ce=0.0, alpha_kd=1.0)
    history = run_fit(tiny_model_dir, tmp_path / "out", few, labels, make_recipe(epochs=1), teaching=teaching)
    assert 0 < history.train_loss[0] < 0.1


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_over_four_bits_is_merged_into_the_full_precision_base(
    tiny_model_dir: Path, tmp_path: Path, few: list[Record], labels: LabelSet
) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed; pip install 'gemmill[bitsandbytes]'")
    recipe = make_recipe(method="lora", lora=LORA, train_embedding=False, load_bits=4, precision="bf16", epochs=1)
    run_fit(tiny_model_dir, tmp_path / "out", few, labels, recipe)
    before, after = weights_in(tiny_model_dir), weights_in(tmp_path / "out")
    name = "model.layers.1.self_attn.o_proj.weight"
    change = after[name] - before[name]
    assert after[name].dtype == torch.float32
    assert torch.linalg.matrix_rank(change, atol=1e-6) <= LORA["r"]
    assert change.abs().max() < 0.05  # rounding the base to 4 bits would move it by more
    assert torch.equal(before[EMBEDDING], after[EMBEDDING])


def test_precisions_may_differ_from_run_to_run(
    tiny_model_dir: Path, tmp_path: Path, few: list[Record], labels: LabelSet
) -> None:
    for index, precision in enumerate(("fp32", "bf16", "fp32")):
        run_fit(tiny_model_dir, tmp_path / str(index), few, labels, make_recipe(precision=precision, epochs=1))
    first, last = weights_in(tmp_path / "0"), weights_in(tmp_path / "2")
    assert all(torch.equal(weight, last[name]) for name, weight in first.items())
    assert not torch.equal(weights_in(tmp_path / "1")[EMBEDDING], first[EMBEDDING])


def test_a_teacher_with_another_vocabulary_is_refused(
    tiny_model_dir: Path, tmp_path: Path, records: list[Record], few: list[Record], labels: LabelSet
) -> None:
    spec = ScratchBase(
        kind="scratch", vocab_size=400, hidden_size=32, intermediate_size=32, layers=1, heads=1, kv_heads=1,
        head_dim=32, seed=1,
    )  # fmt: skip
    build_scratch_base(spec, records, labels, tmp_path / "teacher")
    with pytest.raises(UsageError, match="need one vocabulary, they have 448 and 400 tokens"):
        run_fit(
            tiny_model_dir, tmp_path / "out", few, labels, make_recipe(), teaching=make_teaching(tmp_path / "teacher")
        )


def test_a_teacher_with_as_many_but_other_tokens_is_refused(
    tiny_model_dir: Path, tmp_path: Path, few: list[Record], labels: LabelSet
) -> None:
    teacher = shutil.copytree(tiny_model_dir, tmp_path / "teacher")
    tokenizer = json.loads((teacher / "tokenizer.json").read_text(encoding="utf-8"))
    pieces = tokenizer["model"]["vocab"]
    first, second = list(pieces)[-2:]
    pieces[first], pieces[second] = pieces[second], pieces[first]
    (teacher / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(UsageError, match=r"the tokens of .* and teacher differ"):
        run_fit(tiny_model_dir, tmp_path / "out", few, labels, make_recipe(), teaching=make_teaching(teacher))


def test_weights_of_few_bits_without_bitsandbytes_are_refused(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(UsageError, match="weights of 4 bits need bitsandbytes; install"):
        load_model(tiny_model_dir, bits=4)


@pytest.fixture
def copy(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """The tiny model, to be damaged."""
    return shutil.copytree(tiny_model_dir, tmp_path / "copy")


def test_a_model_that_soft_caps_its_logits_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"final_logit_softcapping": 30.0}))
    with pytest.raises(UsageError, match="soft-caps its logits"):
        load_model(copy, bits=32)


def test_a_pickle_is_no_model(copy: Path) -> None:
    torch.save(weights_in(copy), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"has no model\.safetensors, only 'pytorch_model\.bin': a pickle"):
        load_model(copy, bits=32)


def test_a_damaged_model_is_refused_in_one_sentence(copy: Path) -> None:
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="is not a sound safetensors file: it is cut short"):
        load_model(copy, bits=32)
    (copy / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UsageError, match="cannot be loaded: Unrecognized configuration class"):
        load_model(copy, bits=32)


def test_a_model_that_lacks_a_tensor_is_refused_with_its_name(copy: Path) -> None:
    weights = weights_in(copy)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight; save or fetch it again"):
        load_model(copy, bits=32)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path, tiny_model_dir: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        shutil.copy(tiny_model_dir / name, tmp_path)
    with pytest.raises(UsageError, match=r"has no tokenizer; a base folder needs tokenizer.json or tokenizer.model"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", '{"model": {"type": "BPE"}}', "[1, 2]"])
def test_a_damaged_tokenizer_is_refused(content: str, tmp_path: Path, tiny_model_dir: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        shutil.copy(tiny_model_dir / name, tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UsageError, match=r"the tokenizer in .* cannot be loaded: "):
        load_tokenizer(tmp_path)
