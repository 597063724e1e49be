"""What a retrain prints at its end: commands that work as pasted, and what to do where a gate blocked."""

import shlex
from pathlib import Path

import pytest

from flows.cli import console
from flows.summary import Answer, RetrainSummary
from tasks.gates.judge import Gate, judge
from tasks.gates.report import advice
from tasks.gates.thresholds import Thresholds

_THRESHOLDS = Thresholds(
    json_validity_min=0.9, intent_accuracy_min=0.9, exact_match_min=0.9, entity_f1_min=0.9, oos_recall_min=0.9,
    oos_precision_min=0.9,
)  # fmt: skip


def _summary(*gates: Gate, name: str = "plant-7", worst: tuple[Answer, ...] = ()) -> RetrainSummary:
    return RetrainSummary(
        profile="tiny", run_id="r", model_name=name, model_version=3, aliases=["challenger"],
        passed=all(gate.passed for gate in gates), snapshot={"dataset": "plant", "id": "0123", "rows": {"test": 2}},
        artifacts=[], metrics={}, gates=list(gates), answers=[], worst=list(worst),
        reports={"evaluation": Path("/home/a b/evaluate-gguf.html")}, seconds={"train": 1.0}, reused=[],
    )  # fmt: skip


@pytest.mark.parametrize("home", [None, Path("/plant/a b")])
@pytest.mark.parametrize("name", ["gemma3-manufacturing", "plant-7"])
def test_the_next_steps_work_as_pasted(name: str, home: Path | None) -> None:
    try_out, promote, deploy, ask = (shlex.split(line, comments=True) for line in console.next_steps(name, 3, home))
    options = ([] if name == "gemma3-manufacturing" else ["--model-name", name]) + (
        ["--home", str(home)] if home else []
    )
    assert try_out == ["gemmill", "ask", f"models:/{name}/3", *(["--home", str(home)] if home else [])]
    assert promote == ["gemmill", "promote", "3", *options]
    assert deploy == ["gemmill", "deploy", *options]
    assert ask == ["ollama", "run", name]


def test_a_candidate_that_passed_is_told_with_its_reports(capsys: pytest.CaptureFixture[str]) -> None:
    passed = Gate(name="exact_match", passed=True, value=1, threshold=0.9, compared_with="floor", reason="1")
    console.print_retrain(_summary(passed), None)
    said = capsys.readouterr().out
    assert "/home/a b/evaluate-gguf.html\n" in said
    assert "gemmill promote 3 --model-name plant-7 " in said


def test_a_blocked_candidate_is_told_with_its_worst_rows_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    blocking = Gate(
        name="oos_recall", passed=False, value=0.5, threshold=0.9, compared_with="floor", reason="0.5 is below 0.9"
    )
    wrong = Answer(command="Who [won]?", answer="SG-1 won", expected='{"intent": "out_of_scope"}', ok=False)
    console.print_retrain(_summary(blocking, worst=(wrong,)), None)
    said = capsys.readouterr().out
    for part in ("oos_recall: 0.5 is below 0.9.", "To do: add out_of_scope records", "> Who [won]?", "SG-1 won",
                 '{"intent": "out_of_scope"}', "goes no further"):  # fmt: skip
        assert part in said, said
    assert "gemmill promote" not in said


def test_every_gate_has_advice() -> None:
    verdict = judge(
        candidate={}, champion={}, champion_name="c", outliers_vs_base=None, outliers_vs_champion=None, checks={},
        thresholds=_THRESHOLDS,
    )  # fmt: skip
    assert len(verdict.failed) == len(verdict.gates) == 16
    for gate in verdict.failed:
        assert advice(gate), gate.name
