"""A folder with fewer layers is the whole model with those layers skipped, in transformers and in llama.cpp."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from training_samples import PROMPT, make_recipe, make_teaching, run_fit
from transformers import AutoModelForCausalLM, PreTrainedModel

from registry.errors import GemmillError, UsageError
from registry.records import LabelSet, Record
from tasks.checkpoints.files import read_json
from tasks.checkpoints.loading import load_tokenizer
from tasks.depth.loss import DepthLoss, Layers
from tasks.depth.pruning import DepthReport, prune_depth
from tasks.depth.recipe import DepthRecipe
from tasks.depth.writing import write_layers
from tasks.forensics.comparison import compare_outliers
from tasks.forensics.statistics import tensor_statistics
from tasks.gguf.container import GgufFile
from tasks.gguf.reader import import_gguf
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType
from tasks.training.examples import Batch, build_examples, epoch_batches
from tasks.training.models import load_model
from tasks.verification.verify import verify_gguf

_DEPTH, _LAYERS = 13, 8


@pytest.fixture(scope="module")
def batches(deep_model_dir: Path, records: list[Record], labels: LabelSet) -> list[Batch]:
    examples = build_examples(records[:6], load_tokenizer(deep_model_dir), PROMPT, labels, max_tokens=512)
    return list(epoch_batches(examples, batch_size=4, pad_id=0, seed=0, epoch=0))


@pytest.fixture(scope="module")
def pruned(deep_model_dir: Path, records: list[Record], labels: LabelSet) -> tuple[Path, DepthReport]:
    out = deep_model_dir.parent / "pruned"
    report = prune_depth(deep_model_dir, out, records[:6], labels, DepthRecipe(layers=_LAYERS), prompt=PROMPT)
    return out, report


def shortened(folder: Path, kept: Sequence[int]) -> PreTrainedModel:
    """The model of transformers with the other layers taken out of its list."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    model.model.layers = nn.ModuleList(model.model.layers[number] for number in kept)
    model.config.layer_types = [model.config.layer_types[number] for number in kept]
    model.config.num_hidden_layers = len(kept)
    return model


def loss_of(model: PreTrainedModel, batches: Sequence[Batch]) -> float:
    """Cross-entropy per response token from whole logits."""
    total, tokens = 0.0, 0
    for batch in batches:
        with torch.no_grad():
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        total += nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="sum").item()
        tokens += batch.response_tokens
    return total / tokens


def test_the_loss_of_any_layers_is_that_of_a_model_without_the_others(
    deep_model_dir: Path, batches: list[Batch]
) -> None:
    loss = DepthLoss(load_model(deep_model_dir, bits=32), batches)
    whole = loss.layers
    sets: list[Layers] = [whole, whole[:5], whole[1:], whole[::2], (0, 1, 2, 3, 4, 12), (5,), whole[:12], whole]
    for kept in sets:  # some begin with what was measured before
        assert loss(kept) == pytest.approx(loss_of(shortened(deep_model_dir, kept), batches), rel=1e-5)


def test_states_that_do_not_fit_are_forgotten(
    deep_model_dir: Path, batches: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(deep_model_dir, bits=32)
    loss, sets = DepthLoss(model, batches), [tuple(range(end)) for end in (13, 9, 11)]
    expected = [loss(kept) for kept in sets]
    monkeypatch.setattr("tasks.depth.loss._REMEMBERED_BYTES", 0)
    forgetful = DepthLoss(model, batches)
    assert [forgetful(kept) for kept in sets] == pytest.approx(expected, rel=1e-6)
    assert loss._states and not forgetful._states


def test_a_model_whose_loss_is_no_number_is_refused(
    deep_model_dir: Path, records: list[Record], labels: LabelSet, tmp_path: Path
) -> None:
    shutil.copytree(deep_model_dir, tmp_path / "model")
    weights = load_file(deep_model_dir / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    recipe = DepthRecipe(layers=_LAYERS)
    with pytest.raises(GemmillError, match="is no number; look for damaged weights"):
        prune_depth(tmp_path / "model", tmp_path / "out", records[:2], labels, recipe, prompt=PROMPT)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_computes_something_else_is_not_written(
    deep_model_dir: Path, records: list[Record], labels: LabelSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong_layers(model_dir: Path, folder: Path, kept: Layers, kinds: Sequence[str] | None) -> None:
        write_layers(model_dir, folder, tuple(range(len(kept))), kinds)

    monkeypatch.setattr("tasks.depth.pruning.write_layers", wrong_layers)
    recipe = DepthRecipe(layers=_LAYERS)
    with pytest.raises(GemmillError, match=r"was measured; nothing was written"):
        prune_depth(deep_model_dir, tmp_path / "out", records[:2], labels, recipe, prompt=PROMPT)
    assert not list(tmp_path.iterdir())


def test_scores_are_the_real_differences_of_the_loss(
    deep_model_dir: Path, pruned: tuple[Path, DepthReport], batches: list[Batch]
) -> None:
    report = pruned[1]
    whole = loss_of(shortened(deep_model_dir, range(_DEPTH)), batches)
    assert report.loss == pytest.approx(whole, rel=1e-5)
    for layer in (0, 5, 12):
        rest = [number for number in range(_DEPTH) if number != layer]
        assert report.increases[layer] == pytest.approx(
            loss_of(shortened(deep_model_dir, rest), batches) - whole, abs=1e-5
        )
    gone = [removal.layer for removal in report.removals]
    assert sorted([*gone, *report.kept]) == list(range(_DEPTH)) and len(report.kept) == _LAYERS
    assert report.removals[-1].loss == pytest.approx(loss_of(shortened(deep_model_dir, report.kept), batches), rel=1e-5)
    assert report.records == 6


def test_the_folder_has_the_logits_of_the_whole_model_with_layers_skipped(
    deep_model_dir: Path, pruned: tuple[Path, DepthReport], batches: list[Batch]
) -> None:
    folder, report = pruned
    model, expected = AutoModelForCausalLM.from_pretrained(folder), shortened(deep_model_dir, report.kept)
    assert model.config.layer_types == expected.config.layer_types
    with torch.no_grad():
        ids = batches[0].input_ids
        assert torch.equal(model(ids, use_cache=False).logits, expected(ids, use_cache=False).logits)
    before, after = load_file(deep_model_dir / "model.safetensors"), load_file(folder / "model.safetensors")
    for new, old in enumerate(report.kept):
        name = "model.layers.{}.self_attn.q_proj.weight"
        assert torch.equal(after[name.format(new)], before[name.format(old)])
    assert (folder / "tokenizer.json").read_bytes() == (deep_model_dir / "tokenizer.json").read_bytes()


def test_it_becomes_a_file_that_passes_its_verification_and_comes_back(
    pruned: tuple[Path, DepthReport], records: list[Record], tmp_path: Path
) -> None:
    folder, report = pruned
    gguf = tmp_path / "x.gguf"
    export_gguf(folder, gguf, weights=QuantType.Q8_0)
    verified = verify_gguf(gguf, folder, [record.command for record in records[:2]], prompt=PROMPT)
    assert verified.passed, [check for check in verified.checks if not check.passed]
    with GgufFile(gguf) as file:
        assert file.metadata["gemma3.block_count"] == _LAYERS
        assert file.metadata["gemmill.base_layers"] == ",".join(map(str, report.kept))
    import_gguf(gguf, tmp_path / "back")
    config, back = (read_json(path / "config.json") for path in (folder, tmp_path / "back"))
    assert back["base_layers"] == config["base_layers"] == list(report.kept)
    assert back["layer_types"] == config["layer_types"]


def test_the_whole_model_teaches_the_short_one(
    deep_model_dir: Path, pruned: tuple[Path, DepthReport], records: list[Record], labels: LabelSet, tmp_path: Path
) -> None:
    out = tmp_path / "student"
    history = run_fit(
        pruned[0], out, records[:16], labels, make_recipe(qat=True), teaching=make_teaching(deep_model_dir)
    )
    assert history.validation_loss[-1] < history.validation_loss[0]
    config = read_json(out / "config.json")
    assert (config["num_hidden_layers"], config["base_layers"]) == (_LAYERS, list(pruned[1].kept))


def test_layers_keep_their_numbers_in_the_base_however_often_some_are_dropped(
    pruned: tuple[Path, DepthReport], records: list[Record], labels: LabelSet, tmp_path: Path
) -> None:
    report = prune_depth(pruned[0], tmp_path / "again", records[:4], labels, DepthRecipe(layers=3), prompt=PROMPT)
    kept = [pruned[1].kept[number] for number in report.kept]
    assert read_json(tmp_path / "again" / "config.json")["base_layers"] == kept


def test_norms_are_compared_with_those_of_the_same_layer(
    deep_model_dir: Path, pruned: tuple[Path, DepthReport], tmp_path: Path
) -> None:
    folders = {}
    for name, source in (("base", deep_model_dir), ("short", pruned[0])):
        folders[name] = tmp_path / name
        shutil.copytree(source, folders[name])
        weights = load_file(source / "model.safetensors")
        last = _DEPTH if name == "base" else _LAYERS
        for place in range(last):  # a gain of its own for each layer of the base
            number = place if name == "base" else pruned[1].kept[place]
            weights[f"model.layers.{place}.input_layernorm.weight"][7] = 10.0**number
        save_file(weights, folders[name] / "model.safetensors", metadata={"format": "pt"})
    gguf = tmp_path / "short.gguf"
    export_gguf(folders["short"], gguf, weights=QuantType.Q8_0)
    base = tensor_statistics(folders["base"])
    for model in (folders["short"], gguf):
        short = tensor_statistics(model)
        assert short.base_layers == pruned[1].kept
        assert sorted({norm.layer for norm in short.norms if norm.layer is not None}) == list(pruned[1].kept)
        assert compare_outliers(short, base).passed and compare_outliers(base, short).passed
    config = read_json(folders["short"] / "config.json")
    config.pop("base_layers")
    (folders["short"] / "config.json").write_text(json.dumps(config))
    assert not compare_outliers(tensor_statistics(folders["short"]), base).passed


@pytest.mark.parametrize(
    ("layers", "reason"), [(_DEPTH, "has 13 layers; keep fewer than that, not 13"), (20, "keep fewer than that")]
)
def test_a_depth_that_drops_nothing_is_refused(
    layers: int, reason: str, deep_model_dir: Path, records: list[Record], labels: LabelSet, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=reason):
        prune_depth(deep_model_dir, tmp_path / "out", records[:2], labels, DepthRecipe(layers=layers), prompt=PROMPT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("found", [[0, 0], [1, 0], [0], ["0", "1"], [-1, 0], "0,1", [True, 2]])
def test_numbers_of_layers_that_cannot_be_are_refused(found: object, tiny_model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    config = read_json(tmp_path / "model" / "config.json") | {"base_layers": found}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"base_layers = .*; one ascending number for each layer belongs"):
        export_gguf(tmp_path / "model", tmp_path / "x.gguf", weights=QuantType.Q8_0)
