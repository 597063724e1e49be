"""Profiles: every shipped one loads, all are told the same things, and every fault is named at once."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from flows.settings import PROFILES_FOLDER, Profile, load_profile, shipped_profiles
from registry.errors import UsageError

# What a base of one kind needs another does not; a full fine-tune has no adapter; few runs need an early end, or a
# smaller vocabulary.
_OPTIONAL = ("teacher.base.", "student.base.", "vocabulary.", "teacher.training.lora.", "student.training.lora.",
             "teacher.training.max_steps", "student.training.max_steps")  # fmt: skip


def keys(table: dict[str, Any], place: str = "") -> set[str]:
    found = set()
    for key, value in table.items():
        found |= keys(value, f"{place}{key}.") if isinstance(value, dict) else {f"{place}{key}"}
    return {key for key in found if not key.startswith(_OPTIONAL)}


def raw(name: str) -> dict[str, Any]:
    return tomllib.loads((PROFILES_FOLDER / f"{name}.toml").read_text())


def write(path: Path, **lines: str) -> Path:
    """The shipped tiny profile with the first line of a key replaced."""
    text = (PROFILES_FOLDER / "tiny.toml").read_text().splitlines()
    for key, line in lines.items():
        index = next(number for number, old in enumerate(text) if old.startswith(f"{key} ="))
        text[index] = line
    path.write_text("\n".join(text))
    return path


@pytest.mark.parametrize("name", shipped_profiles())
def test_every_shipped_profile_loads(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert Profile.model_validate(profile.model_dump(mode="json")) == profile  # as it is logged to a run
    assert profile.prompt.instruction == profile.instruction


def test_the_profiles_that_the_readme_names_are_shipped() -> None:
    assert {"tiny", "gemma3-270m", "gemma3-270m-edge", "gemma3", "smollm2-135m"} <= set(shipped_profiles())


@pytest.mark.parametrize("name", shipped_profiles())
def test_shipped_profiles_have_the_same_keys(name: str) -> None:
    assert keys(raw(name)) == keys(raw("tiny"))


def test_all_faults_of_a_profile_are_reported_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path / "broken.toml",
        licence='licence = "mit"',
        vocab_size="vocab_size = 12",
        learning_rate="learning_rate = 0",
        temperature="temperatur = 2.0",
        json_validity_min="json_validity_min = 1.5",
    )
    with pytest.raises(UsageError) as caught:
        load_profile(str(path))
    message = str(caught.value)
    assert message.startswith("profile broken.toml: ")
    for place in ("licence", "teacher.base.scratch.vocab_size", "teacher.training.learning_rate",
                  "student.distill.temperature", "student.distill.temperatur", "gates.json_validity_min"):  # fmt: skip
        assert f"{place}: " in message
    assert "\n" not in message


def test_a_context_that_cannot_hold_a_record_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "short.toml", context="context = 256")
    with pytest.raises(UsageError, match=r"evaluation\.context is 256, a training record may have \d+"):
        load_profile(str(path))


def test_qat_for_a_file_without_blocks_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "float.toml", weights='weights = "f16"')
    with pytest.raises(UsageError, match=r"qat is for block types, export\.weights is f16"):
        load_profile(str(path))


def test_pre_training_on_the_grid_is_refused(tmp_path: Path) -> None:
    text = (PROFILES_FOLDER / "tiny.toml").read_text()
    recipe = text.partition("[student.training]")[2].partition("[")[0]
    (tmp_path / "p.toml").write_text(f"{text}\n[pretraining]{recipe}")
    with pytest.raises(UsageError, match="pretraining is plain: set qat = false"):
        load_profile(str(tmp_path / "p.toml"))


def test_an_unknown_profile_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        UsageError,
        match=r"there is no profile 'huge'; take .*gemma3, gemma3-270m, .*smollm2-135m, tiny or the path",
    ):
        load_profile("huge")
    with pytest.raises(UsageError, match=r"there is no profile '/nowhere/x\.toml'"):
        load_profile("/nowhere/x.toml")


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"[a]\n[a]\n"], ids=["cut short", "binary", "twice"])
def test_a_file_that_is_not_toml_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_bytes(content)
    with pytest.raises(UsageError, match=r"p\.toml is not TOML: "):
        load_profile(str(tmp_path / "p.toml"))
