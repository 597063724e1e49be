"""A step runs once for its inputs, code and libraries, on Prefect's real cache."""

import os
import shutil
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, runtime
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from pydantic import BaseModel, ConfigDict

from deployment.prompts.prompt import Prompt
from registry import code as code_module
from registry.artifacts import Artifact
from registry.errors import ServiceUnavailable, UsageError
from registry.store.snapshots import Snapshot
from tasks import steps as steps_module
from tasks.quant.types import QuantType
from tasks.steps import StepContext, Steps, outside, step

pytestmark = pytest.mark.usefixtures("prefect_server")
runs: list[str] = []
names: list[str] = []


class Counted(BaseModel):
    model_config = ConfigDict(frozen=True)

    made: Artifact
    where: Path
    words: int


@step
def count_words(step: StepContext, text: str, source: Artifact, prompt: Prompt, quant: QuantType) -> Counted:
    runs.append(text)
    names.append(runtime.task_run.name)
    step.folder.mkdir(parents=True, exist_ok=True)
    (step.folder / "words.txt").write_text(f"{text} {quant} {prompt.instruction}")
    return Counted(made=Artifact.of("words", step.folder / "words.txt"), where=step.folder, words=len(text.split()))


@step
def compare(step: StepContext, snapshot: Snapshot, models: list[Snapshot | None]) -> None: ...


@flow
def counting(home: Path, **inputs: Any) -> tuple[Counted, Steps]:
    steps = Steps(home / "steps", "run-1")
    return steps.run(count_words.titled("count all words"), **inputs), steps


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that the step imports, in a repository of the test's own."""
    module = tmp_path / "root" / "deployment" / "prompts" / "prompt.py"
    module.parent.mkdir(parents=True)
    module.write_text("import gguf\n")
    monkeypatch.setattr(code_module, "_ROOT", tmp_path / "root")
    runs.clear()
    names.clear()
    return module


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    """Inputs that no other test has: the cache is one for the module."""
    (tmp_path / "source.txt").write_text("source")
    return {
        "text": f"three words {tmp_path.name}",
        "source": Artifact.of("source", tmp_path / "source.txt"),
        "prompt": Prompt(),
        "quant": QuantType.Q4_0,
    }


def test_the_same_inputs_are_worked_on_once(tmp_path: Path, inputs: dict[str, Any]) -> None:
    first, before = counting(tmp_path, **inputs)
    again, after = counting(tmp_path, **inputs)
    assert again == first and len(runs) == 1
    assert (before.reused, after.reused) == ([], ["count_all_words"])
    assert first.words == 3 and list(before.seconds) == ["count_all_words"]


def test_what_was_not_used_for_long_is_removed_and_made_again(tmp_path: Path, inputs: dict[str, Any]) -> None:
    old, steps = counting(tmp_path, **inputs)
    new, _ = counting(tmp_path, **inputs | {"text": "two words"})
    for result in (old, new):
        os.utime(result.where, (time.time() - 40 * 86_400,) * 2)
    counting(tmp_path, **inputs | {"text": "two words"})
    steps.prune(30)
    assert new.where.exists() and not old.where.exists()
    again, after = counting(tmp_path, **inputs)
    assert again == old and after.reused == [] and len(runs) == 3


def test_another_input_is_worked_on_anew(tmp_path: Path, inputs: dict[str, Any]) -> None:
    (tmp_path / "other.txt").write_text("other")
    changes = {
        "text": "two words",
        "source": Artifact.of("source", tmp_path / "other.txt"),
        "prompt": Prompt(instruction="Be brief."),
        "quant": QuantType.Q8_0,
    }
    results = [counting(tmp_path, **inputs | {name: value})[0] for name, value in changes.items()]
    assert len(runs) == 4 and len({result.where for result in results}) == 4


def test_an_edit_in_the_code_behind_it_is_seen(tmp_path: Path, inputs: dict[str, Any], code: Path) -> None:
    counting(tmp_path, **inputs)
    code.write_text("import gguf, json\n")
    counting(tmp_path, **inputs)
    (code.parent / "more.py").write_text("")
    _, steps = counting(tmp_path, **inputs)
    assert len(runs) == 2 and steps.reused == ["count_all_words"]


def test_another_version_of_a_library_is_seen(
    tmp_path: Path, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    counting(tmp_path, **inputs)
    version = metadata.version
    monkeypatch.setattr(code_module.metadata, "version", lambda name: "0.0.1" if name == "gguf" else version(name))
    counting(tmp_path, **inputs)
    assert len(runs) == 2


def test_a_folder_that_was_deleted_is_made_again(tmp_path: Path, inputs: dict[str, Any]) -> None:
    result, _ = counting(tmp_path, **inputs)
    shutil.rmtree(result.where)
    again, steps = counting(tmp_path, **inputs)
    assert again == result and again.made.verify().is_file()
    assert len(runs) == 2 and steps.reused == []


def test_a_moved_home_keeps_its_results_at_their_new_place(tmp_path: Path, inputs: dict[str, Any]) -> None:
    first, _ = counting(tmp_path / "old", **inputs)
    shutil.move(tmp_path / "old", tmp_path / "new")
    moved, steps = counting(tmp_path / "new", **inputs)
    assert len(runs) == 1 and steps.reused == ["count_all_words"]
    assert moved.where == tmp_path / "new" / first.where.relative_to(tmp_path / "old")
    assert moved.made.verify().is_relative_to(tmp_path / "new")


def test_a_result_is_found_wherever_prefect_keeps_its_own(tmp_path: Path, inputs: dict[str, Any]) -> None:
    counting(tmp_path / "home", **inputs)
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "elsewhere"}):
        _, steps = counting(tmp_path / "home", **inputs)
    assert len(runs) == 1 and steps.reused == ["count_all_words"]
    assert not (tmp_path / "elsewhere").exists()


def test_two_homes_that_share_a_server_keep_apart(tmp_path: Path, inputs: dict[str, Any]) -> None:
    counting(tmp_path / "a", **inputs)
    there, _ = counting(tmp_path / "b", **inputs)
    here, _ = counting(tmp_path / "a", **inputs)
    assert here.made.verify().is_relative_to(tmp_path / "a")
    assert there.made.verify().is_relative_to(tmp_path / "b")


def test_a_step_that_failed_is_tried_again(tmp_path: Path, inputs: dict[str, Any]) -> None:
    blocked = tmp_path / "home"
    blocked.write_text("a file where the folder should be")
    with pytest.raises(OSError):
        counting(blocked, **inputs)
    blocked.unlink()
    assert counting(blocked, **inputs)[0].words == 3
    assert len(runs) == 2


def test_a_key_counts_artifacts_and_snapshots_by_digest(tmp_path: Path) -> None:
    def key(path: Path, digest: str) -> str:
        snapshot = Snapshot(id=digest[:12], dataset="plant", path=path, sha256=digest, rows={"train": 1})
        return compare.key(snapshot, models=[snapshot, None])

    assert key(tmp_path / "a", "1" * 64) == key(tmp_path / "b", "1" * 64)
    assert key(tmp_path / "a", "1" * 64) != key(tmp_path / "a", "2" * 64)
    assert len(key(tmp_path, "3" * 64)) == 24


def test_a_key_does_not_tell_names_from_places(tmp_path: Path) -> None:
    snapshot = Snapshot(id="1", dataset="plant", path=tmp_path, sha256="1" * 64, rows={})
    assert compare.key(snapshot, [None]) == compare.key(models=[None], snapshot=snapshot)


def test_a_run_in_prefect_is_called_by_its_title(tmp_path: Path, inputs: dict[str, Any]) -> None:
    counting(tmp_path, **inputs)
    assert names == ["count all words"]


@pytest.fixture
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps_module, "_PAUSES", (0.0, 0.0))


@pytest.mark.usefixtures("without_pauses")
@pytest.mark.parametrize(
    ("answers", "tries"),
    [
        ([ServiceUnavailable("it restarts."), ServiceUnavailable("it restarts."), "registered"], 3),
        ([ServiceUnavailable("it is gone.")] * 4, 3),
        ([UsageError("there is no such model."), "registered"], 1),
        ([TimeoutError("a fault of ours"), "registered"], 1),
    ],
    ids=["comes back", "stays away", "wrong use", "a fault"],
)
def test_a_service_out_of_reach_is_tried_again_and_nothing_else_is(answers: list[Any], tries: int) -> None:
    asked: list[str] = []

    @outside(minutes=1)
    def register(name: str) -> str:
        asked.append(name)
        answer = answers[len(asked) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    @flow
    def registering() -> str:
        return register("plant")

    last = answers[tries - 1]
    if isinstance(last, Exception):
        with pytest.raises(type(last), match=str(last)):
            registering()
    else:
        assert registering() == last
    assert len(asked) == tries


@pytest.mark.usefixtures("without_pauses")
def test_a_service_that_never_ends_is_given_up() -> None:
    asked: list[float] = []

    @outside(minutes=0.01)
    def fetch_base() -> None:
        asked.append(time.monotonic())
        while time.monotonic() < asked[0] + 60:  # in pieces: pytest has the alarm that would end a long one
            time.sleep(0.05)

    @flow
    def fetching() -> None:
        fetch_base()

    with pytest.raises(ServiceUnavailable, match=r"fetch base came to no end within 0\.01 minutes"):
        fetching()
    assert len(asked) == 1 and time.monotonic() - asked[0] < 30
