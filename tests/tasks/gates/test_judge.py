"""What a gate lets through, what it blocks, and that it names the value, the threshold and the baseline."""

import math
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console

from registry.errors import GateBlocked
from tasks.forensics.comparison import Change, NormChange, OutlierComparison
from tasks.gates.judge import Verdict, judge, judge_smaller
from tasks.gates.report import advice, verdict_markdown, verdict_table
from tasks.gates.thresholds import Floors, Thresholds

GATES_TABLE = """
json_validity_min = 0.995
intent_accuracy_min = 0.96
exact_match_min = 0.72
entity_f1_min = 0.86
oos_recall_min = 0.96
oos_precision_min = 0.96
max_drop = 0.01
norm_outlier_ratio_max = 1.5
"""
THRESHOLDS = Thresholds.model_validate(tomllib.loads(GATES_TABLE))
METRICS = tuple(THRESHOLDS.floors())
GOOD = dict.fromkeys(METRICS, 0.999)
CHECKS = {"prompt_parity": True, "gguf_verification": True}


def comparison(ratio: float = 1.02, *, nonfinite: tuple[str, ...] = ()) -> OutlierComparison:
    norm = NormChange(
        tensor="model.layers.16.post_feedforward_layernorm.weight",
        change=Change.INHERITED if ratio <= 1.5 else Change.GROWN,
        max_gain=1657.0 * ratio,
        baseline_max_gain=1657.0,
        ratio=ratio,
        channel=163,
        gain=1657.0 * ratio,
        baseline_gain=1657.0,
    )
    return OutlierComparison(candidate="c", baseline="b", ratio_max=1.5, norms=(norm,), nonfinite=nonfinite)


def verdict(**changes) -> Verdict:
    arguments = {
        "candidate": GOOD,
        "champion": None,
        "champion_name": None,
        "outliers_vs_base": comparison(),
        "outliers_vs_champion": None,
        "checks": CHECKS,
        "thresholds": THRESHOLDS,
    }
    return judge(**(arguments | changes))


def failed(outcome: Verdict) -> list[str]:
    return [gate.name for gate in outcome.failed]


def test_a_first_candidate_above_all_floors_passes_without_gates_against_a_champion():
    outcome = verdict()
    assert outcome.passed
    assert outcome.require() is outcome
    assert [gate.name for gate in outcome.gates] == [
        *METRICS,
        "norm_outliers_vs_base",
        "prompt_parity",
        "gguf_verification",
    ]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -0.1, 1.1])
def test_a_metric_that_was_not_measured_blocks_with_a_reason(metric, value):
    outcome = verdict(
        candidate={**GOOD, metric: value},
        thresholds=Thresholds(
            **dict.fromkeys(THRESHOLDS.model_dump(exclude={"max_drop", "norm_outlier_ratio_max", "grounded"}), 0.0)
        ),
    )
    assert failed(outcome) == [metric]
    assert "not measured" in outcome.failed[0].reason


def test_grounded_answers_have_floors_and_a_champion_of_their_own():
    floors = Floors(**THRESHOLDS.model_dump(exclude={"norm_outlier_ratio_max", "grounded"}))
    asked = THRESHOLDS.model_copy(update={"grounded": floors})
    named = [f"grounded_{metric}" for metric in METRICS]
    assert failed(verdict(thresholds=asked)) == named  # not measured
    below = {**GOOD, "exact_match": 0.71}
    assert failed(verdict(thresholds=asked, candidate_grounded=below)) == ["grounded_exact_match"]
    champion = {"champion": GOOD, "champion_name": "version 7", "outliers_vs_champion": comparison()}
    assert failed(verdict(thresholds=asked, candidate_grounded=GOOD, **champion)) == [
        f"{name}_vs_champion"
        for name in named  # the champion's were not measured
    ]
    dropped = {**GOOD, "oos_recall": 0.97}
    outcome = verdict(thresholds=asked, candidate_grounded=dropped, champion_grounded=GOOD, **champion)
    assert failed(outcome) == ["grounded_oos_recall_vs_champion"]
    assert advice(outcome.failed[0]) == advice(outcome.failed[0].model_copy(update={"name": "oos_recall_vs_champion"}))


def test_an_absent_metric_blocks_as_one_that_is_none():
    outcome = verdict(candidate={name: value for name, value in GOOD.items() if name != "oos_recall"})
    assert failed(outcome) == ["oos_recall"]


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_at_its_floor_passes_and_one_below_blocks(metric):
    floor = THRESHOLDS.floors()[metric]
    assert verdict(candidate={**GOOD, metric: floor}).passed
    outcome = verdict(candidate={**GOOD, metric: floor - 0.001})
    assert failed(outcome) == [metric]
    assert outcome.failed[0].threshold == floor


@pytest.mark.parametrize("metric", METRICS)
def test_a_drop_below_the_champion_is_allowed_up_to_max_drop(metric):
    champion = {**GOOD, metric: 0.98}
    kept = {"champion": champion, "champion_name": "version 7", "outliers_vs_champion": comparison()}
    lenient = THRESHOLDS.model_copy(update={f"{metric}_min": 0.5})
    assert verdict(candidate={**GOOD, metric: 0.97}, thresholds=lenient, **kept).passed
    outcome = verdict(candidate={**GOOD, metric: 0.969}, thresholds=lenient, **kept)
    assert failed(outcome) == [f"{metric}_vs_champion"]
    gate = outcome.failed[0]
    assert (gate.value, gate.baseline, gate.compared_with) == (0.969, 0.98, "version 7")
    assert gate.threshold == pytest.approx(0.97)


def test_a_champion_without_a_measurement_blocks():
    champion = {**GOOD, "oos_recall": None}
    outcome = verdict(champion=champion, champion_name="version 7", outliers_vs_champion=comparison())
    assert failed(outcome) == ["oos_recall_vs_champion"]
    assert "version 7 has no such measurement" in outcome.failed[0].reason


def test_a_champion_of_another_architecture_has_no_norms_to_compare():
    norm = comparison().norms[0].model_copy(update={"change": Change.UNMATCHED, "ratio": None})
    other = comparison().model_copy(update={"norms": (norm,)})
    outcome = verdict(champion=GOOD, champion_name="version 7", outliers_vs_champion=other)
    assert outcome.passed
    assert "norm_outliers_vs_champion" not in {gate.name for gate in outcome.gates}
    assert failed(verdict(outliers_vs_base=other)) == ["norm_outliers_vs_base"]


def test_a_champion_without_an_outlier_comparison_blocks():
    assert failed(verdict(champion=GOOD, champion_name="version 7")) == ["norm_outliers_vs_champion"]


def test_an_outgrown_gain_blocks_with_ratio_limit_and_the_gain_of_the_base():
    gate = verdict(outliers_vs_base=comparison(10.0)).failed[0]
    assert (gate.name, gate.value, gate.threshold, gate.baseline) == (
        "norm_outliers_vs_base",
        10.0,
        1.5,
        1657.0,
    )
    assert "16570" in gate.reason
    assert "channel 163" in gate.reason


def test_the_threshold_decides_over_the_limit_that_the_comparison_was_labelled_with():
    assert not verdict(thresholds=THRESHOLDS.model_copy(update={"norm_outlier_ratio_max": 1.01})).passed
    assert verdict(
        outliers_vs_base=comparison(3.0),
        thresholds=THRESHOLDS.model_copy(update={"norm_outlier_ratio_max": 4.0}),
    ).passed


@pytest.mark.parametrize(
    "broken",
    [
        None,
        OutlierComparison(candidate="c", baseline="b", ratio_max=1.5, norms=()),
        comparison(nonfinite=("x",)),
    ],
    ids=["not compared", "no norms", "not finite"],
)
def test_outliers_that_cannot_be_judged_block(broken):
    assert failed(verdict(outliers_vs_base=broken)) == ["norm_outliers_vs_base"]


@pytest.mark.parametrize("checks", [{}, {"prompt_parity": True}, {**CHECKS, "gguf_verification": False}])
def test_a_required_check_that_is_missing_or_false_blocks(checks):
    assert not verdict(checks=checks).passed


def test_a_further_check_becomes_a_gate():
    assert failed(verdict(checks={**CHECKS, "golden_prompts": False})) == ["golden_prompts"]


def test_the_error_names_gates_with_value_threshold_and_baseline_in_two_sentences():
    outcome = verdict(
        candidate={**GOOD, "exact_match": 0.61},
        champion={**GOOD, "exact_match": 0.77},
        champion_name="version 7",
        outliers_vs_champion=comparison(),
    )
    with pytest.raises(GateBlocked) as caught:
        outcome.require()
    assert caught.value.exit_code == 3
    assert str(caught.value) == (
        "2 of 16 gates block the candidate. exact_match: 0.61 is below the floor of 0.72; "
        "exact_match_vs_champion: 0.61 against 0.77 of version 7, more than the allowed drop of 0.01."
    )


def test_the_error_counts_what_it_does_not_name():
    with pytest.raises(GateBlocked, match="and 3 more, see the gate report"):
        verdict(candidate={}).require()


@given(
    candidate=st.dictionaries(st.sampled_from(METRICS), st.one_of(st.none(), st.floats())),
    champion=st.one_of(st.none(), st.dictionaries(st.sampled_from(METRICS), st.one_of(st.none(), st.floats()))),
    checks=st.dictionaries(st.sampled_from(["prompt_parity", "gguf_verification", "other"]), st.booleans()),
)
def test_whatever_was_measured_there_is_a_verdict_and_it_passes_only_on_complete_numbers(candidate, champion, checks):
    outcome = verdict(candidate=candidate, champion=champion, checks=checks, outliers_vs_champion=comparison())
    assert Verdict.model_validate_json(outcome.model_dump_json()) == outcome
    if outcome.passed:
        assert all(candidate[name] >= floor for name, floor in THRESHOLDS.floors().items())
        assert all(checks.values())
        assert {"prompt_parity", "gguf_verification"} <= set(checks)


def test_the_table_and_the_markdown_show_every_gate_and_why_one_failed():
    outcome = verdict(candidate={**GOOD, "oos_recall": None}, outliers_vs_base=comparison(10.0))
    console = Console(width=140, record=True)
    console.print(verdict_table(outcome))
    for text in (console.export_text(), verdict_markdown(outcome)):
        assert all(gate.name in text for gate in outcome.gates)
        assert "2 of 9 gates failed" in text
    assert "- `oos_recall`: not measured (None), 0.96 is asked" in verdict_markdown(outcome)


def test_a_profile_cannot_misspell_or_overstate_a_threshold():
    table = tomllib.loads(GATES_TABLE)
    with pytest.raises(ValidationError, match="oos_recal_min"):
        Thresholds.model_validate({**table, "oos_recal_min": 0.9})
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        Thresholds.model_validate({**table, "exact_match_min": 72})


def smaller(candidate, thresholds=None, **largest):
    return judge_smaller(candidate=candidate, largest={**GOOD, **largest}, thresholds=thresholds)


def test_a_smaller_file_is_held_against_floors_and_the_largest_files_figures():
    outcome = smaller({**GOOD, "exact_match": 0.7}, THRESHOLDS, exact_match=0.705)
    assert failed(outcome) == ["exact_match"]
    assert [gate.name for gate in outcome.gates] == [*METRICS, *(f"{name}_vs_largest" for name in METRICS)]
    assert failed(smaller({**GOOD, "exact_match": 0.98}, THRESHOLDS)) == ["exact_match_vs_largest"]


def test_without_thresholds_a_smaller_file_may_lose_a_point_of_what_was_measured_of_the_largest():
    assert smaller({**GOOD, "exact_match": 0.0, "oos_recall": None}, exact_match=0.01, oos_recall=None).passed
    assert failed(smaller({**GOOD, "exact_match": 0.979}, exact_match=0.99)) == ["exact_match_vs_largest"]
    assert failed(smaller({**GOOD, "exact_match": None})) == ["exact_match_vs_largest"]
