"""A step runs once for its inputs, code and libraries, on Prefect's real cache."""

import os
import shutil
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from pydantic import BaseModel, ConfigDict

from deployment.prompt import Prompt
from registry import artifacts
from registry.artifacts import Artifact
from registry.snapshots import Snapshot
from tasks import steps as steps_module
from tasks.quant.types import QuantType
from tasks.steps import Place, Steps, step, step_key

pytestmark = pytest.mark.usefixtures("prefect_server")
CODE = "counted_code"  # a folder under the root that each test makes for itself
runs: list[str] = []


class Counted(BaseModel):
    model_config = ConfigDict(frozen=True)

    made: Artifact
    where: Path
    words: int


@step(CODE)
def count_words(text: str, source: Artifact, prompt: Prompt, quant: QuantType, place: Place) -> Counted:
    runs.append(text)
    place.folder.mkdir(parents=True, exist_ok=True)
    (place.folder / "words.txt").write_text(f"{text} {quant} {prompt.instruction}")
    return Counted(made=Artifact.of("words", place.folder / "words.txt"), where=place.folder, words=len(text.split()))


@flow
def counting(home: Path, **inputs: Any) -> tuple[Counted, Steps]:
    steps = Steps(home / "steps", "run-1")
    return steps.run(count_words, title="count", **inputs), steps


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sources that the step declares, in a root of the test's own."""
    root = tmp_path / "root"
    (root / CODE).mkdir(parents=True)
    (root / CODE / "words.py").write_text("one = 1\n")
    (root / "registry").mkdir()
    monkeypatch.setattr(artifacts, "__file__", str(root / "registry" / "artifacts.py"))
    runs.clear()
    return root / CODE


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
    assert (before.reused, after.reused) == ([], ["count"])
    assert first.words == 3 and list(before.seconds) == ["count"]


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


def test_an_edit_in_the_declared_code_is_seen(tmp_path: Path, inputs: dict[str, Any], code: Path) -> None:
    counting(tmp_path, **inputs)
    (code / "words.py").write_text("one = 2\n")
    counting(tmp_path, **inputs)
    (code / "more.py").write_text("")
    _, steps = counting(tmp_path, **inputs)
    assert len(runs) == 3 and steps.reused == []


def test_another_version_of_a_library_is_seen(
    tmp_path: Path, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    counting(tmp_path, **inputs)
    version = metadata.version
    monkeypatch.setattr(steps_module.metadata, "version", lambda name: "0.0.1" if name == "gguf" else version(name))
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
    assert len(runs) == 1 and steps.reused == ["count"]
    assert moved.where == tmp_path / "new" / first.where.relative_to(tmp_path / "old")
    assert moved.made.verify().is_relative_to(tmp_path / "new")


def test_a_result_is_found_wherever_prefect_keeps_its_own(tmp_path: Path, inputs: dict[str, Any]) -> None:
    counting(tmp_path / "home", **inputs)
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "elsewhere"}):
        _, steps = counting(tmp_path / "home", **inputs)
    assert len(runs) == 1 and steps.reused == ["count"]
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
        return step_key(count_words.name, {"snapshot": snapshot, "models": [snapshot, None]})

    assert key(tmp_path / "a", "1" * 64) == key(tmp_path / "b", "1" * 64)
    assert key(tmp_path / "a", "1" * 64) != key(tmp_path / "a", "2" * 64)
    assert len(key(tmp_path, "3" * 64)) == 24
