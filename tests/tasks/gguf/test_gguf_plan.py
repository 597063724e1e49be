import json
from pathlib import Path

import pytest
from gguf_samples import CONFIG, tiny_weights

from registry.errors import UsageError
from tasks.checkpoints.architectures import describe
from tasks.gguf.plan import groups, plan_types
from tasks.gguf.type_names import quant_type
from tasks.gguf.writer import export_gguf, plan_export
from tasks.quant.types import QuantType


@pytest.mark.parametrize("weights", list(QuantType))
@pytest.mark.parametrize("embedding", [None, QuantType.F16, QuantType.Q4_0])
def test_the_planned_size_is_that_of_the_file(
    tiny_gemma: Path, tmp_path: Path, weights: QuantType, embedding: QuantType | None
) -> None:
    plan = plan_export(tiny_gemma, weights=weights, embedding=embedding)
    report = export_gguf(tiny_gemma, tmp_path / "out.gguf", weights=weights, embedding=embedding)
    assert plan.file_bytes == report.path.stat().st_size == json.loads(plan.to_json())["bytes"]
    assert plan.tensor_bytes == sum(tensor["bytes"] for tensor in json.loads(plan.to_json())["tensors"])
    assert plan.weights == sum(values.size for values in tiny_weights().values())


def test_llama_quantizes_mix_and_a_file_of_nothing_but_q4_0_are_both_there(tiny_gemma: Path) -> None:
    mix = plan_export(tiny_gemma, weights=QuantType.Q4_0)
    whole = plan_export(tiny_gemma, weights=QuantType.Q4_0, embedding=QuantType.Q4_0)
    assert [
        {tensor.gguf_name: tensor.type for tensor in plan.tensors}["token_embd.weight"] for plan in (mix, whole)
    ] == [QuantType.Q8_0, QuantType.Q4_0]
    assert mix.file_bytes - whole.file_bytes == CONFIG["vocab_size"] * CONFIG["hidden_size"] // 32 * (34 - 18)


def test_tensors_that_differ_by_their_layer_alone_are_shown_together() -> None:
    plans = list(plan_types(describe(CONFIG), weights=QuantType.Q8_0).values())
    found = {group.name: group for group in groups(plans)}
    assert len(found) == 15
    assert list(found)[:3] == ["output_norm.weight", "token_embd.weight", "blk.0-6.attn_k.weight"]
    assert len(found["blk.0-6.ffn_up.weight"].tensors) == 7
    assert sum(group.nbytes for group in found.values()) == sum(plan.nbytes for plan in plans)
    some = [plan for plan in plans if plan.gguf_name.startswith(("blk.0.ffn_up", "blk.1.ffn_up", "blk.4.ffn_up"))]
    assert [group.name for group in groups(some)] == ["blk.0-1,4.ffn_up.weight"]


@pytest.mark.parametrize("label", ["q4_0", "Q4_0", "bf16", "F32"])
def test_a_type_is_found_by_its_name(tiny_gemma: Path, label: str) -> None:
    assert quant_type(label, tiny_gemma) == QuantType(label.lower())


_MISFITS = r"50 of 50 matrices \(100 % of their weights\) have rows of 64 or 96, which llama-quantize writes as "


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("q4_k_m", _MISFITS + r"q5_0\. Take q4_0 or q5_0"),
        ("Q4_K_S", _MISFITS + r"q5_0\. Take q4_0 or q5_0"),
        ("q5_k_m", _MISFITS + r"q5_1\. Take q5_0 or q5_1"),
        ("q6_k", _MISFITS + r"q8_0\. Take q8_0"),
        ("q2_k", _MISFITS + r"q4_0\. Take q4_0"),
        ("q3_k_l", _MISFITS + r"q4_0\. Take q4_0"),
        ("tq1_0", _MISFITS + r"q4_0\. Take q4_0"),
        ("iq4_xs", _MISFITS + r"iq4_nl\. Take q4_0"),
        ("iq2_xxs", _MISFITS + r"iq4_nl\. Take q4_0"),
        ("q4_0-imatrix", "importance matrix is no type.* Take q4_0"),
        ("iq4_nl", r"'iq4_nl' is no type that is written; take one of f32, f16, bf16, q8_0"),
        ("q9", r"'q9' is no type that is written; take one of f32"),
    ],
)
def test_a_name_that_would_not_hold_is_refused_with_what_to_take_instead(
    tiny_gemma: Path, label: str, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        quant_type(label, tiny_gemma)
