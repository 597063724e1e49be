"""What the steps of the phases are keyed by: all code that they run, and as little else as can be."""

import importlib
from pathlib import Path

import pytest

import tasks
from registry.code import Code, code_behind
from tasks.steps import Step

_PHASES = ("collect", "prepare", "train", "export", "calibrate", "measure", "publish")
_TRAINING = ("train_teacher", "distill_student", "pretrain_base", "prune_depth")


@pytest.fixture(scope="module")
def behind() -> dict[str, Code]:
    """The code behind every step of the phases."""
    modules = [importlib.import_module(f"tasks.{name}") for name in _PHASES]
    steps = [value for module in modules for value in vars(module).values() if isinstance(value, Step)]
    return {step.name: code_behind(step.function) for step in steps}


def test_every_file_that_makes_steps_is_a_phase() -> None:
    folder = Path(tasks.__file__ or "").parent
    assert {path.stem for path in folder.glob("*.py") if "\n@step\n" in path.read_text()} == set(_PHASES)


def test_only_what_keeps_results_and_runs_steps_is_left_out(behind: dict[str, Code]) -> None:
    for name, found in behind.items():
        assert set(found.left_out) <= {"registry/models.py", "tasks/steps.py"}, name


@pytest.mark.parametrize(
    ("step", "parts"),
    [
        ("check_data", ("data_checks/expectations.py", "data_checks/suites.py")),
        ("train_teacher", ("tasks/training/loop.py", "tasks/quant/codecs.py", "deployment/prompts/prompt.py")),
        ("distill_student", ("tasks/distill/kd.py", "tasks/training/objective.py")),
        ("prune_vocabulary", ("tasks/vocabulary/pruning.py", "tasks/tokenizers/reading.py")),
        ("export_gguf", ("tasks/gguf/writer.py", "deployment/runtimes/llama_child.py")),
        ("evaluate_model", ("deployment/runtimes/llama_child.py", "tasks/reports/templates/page.html.j2")),
        ("score_fold", ("tasks/training/loop.py", "tasks/doubt/folds.py", "deployment/answers/doubt.py")),
        ("inspect_weights", ("tasks/forensics/statistics.py", "tasks/forensics/templates/inspection.html.j2")),
        (
            "package_model",
            ("deployment/packages/templates/LICENSE.gemma.txt", "deployment/packages/templates/model_card.md.j2"),
        ),
    ],
)
def test_a_step_is_keyed_by_what_it_runs_and_reads(behind: dict[str, Code], step: str, parts: tuple[str, ...]) -> None:
    assert set(parts) <= set(behind[step].files)


@pytest.mark.parametrize("step", _TRAINING)
def test_an_edit_of_reports_forensics_or_the_store_does_not_train_again(behind: dict[str, Code], step: str) -> None:
    strange = (
        "flows/", "tasks/doubt/", "tasks/forensics/", "tasks/evaluation/", "tasks/gates/", "registry/store/datasets.py",
    )  # fmt: skip
    assert not [file for file in behind[step].files if file.startswith(strange)]


def test_libraries_count_for_the_steps_that_use_them(behind: dict[str, Code]) -> None:
    users = {
        library: {name for name, found in behind.items() if library in found.versions}
        for library in ("great_expectations", "peft", "tokenizers", "xllamacpp")
    }
    assert users["great_expectations"] == {"check_data"}
    assert set(_TRAINING) <= users["peft"] and not users["peft"] & {"check_data", "package_model", "inspect_weights"}
    assert users["xllamacpp"] == {"evaluate_model", "export_gguf", "score_fold", "score_validation"}
    assert set(_TRAINING) <= users["tokenizers"]
