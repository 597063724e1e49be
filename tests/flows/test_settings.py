"""Profiles: every shipped one loads, all are told the same things, and every fault is named at once."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from deployment.runtimes.decoding import Longest
from flows import settings
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


def test_the_context_is_a_minimum_that_a_profile_may_raise(tmp_path: Path) -> None:
    assert load_profile("tiny").evaluation.context == 1024
    more = write(tmp_path / "more.toml", max_new_tokens="max_new_tokens = 192\ncontext = 4096")
    assert load_profile(str(more)).evaluation.limits(Longest(prompt=40, answer=60, context=8192)).num_ctx == 4096
    less = write(tmp_path / "less.toml", max_new_tokens="max_new_tokens = 192\ncontext = 512")
    with pytest.raises(UsageError, match=r"evaluation\.context: .*greater than or equal to 1024"):
        load_profile(str(less))


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


@pytest.mark.parametrize(
    ("key", "line", "fault"),
    [
        ("instruction", 'instruction = "a\\u0000b"', "instruction: a Modelfile cannot hold a NUL"),
        ("model_name", 'model_name = "../../evil"', r"model_name: '../../evil' is no name; write 1 to 64"),
        ("model_name", 'model_name = ""', "model_name: '' is no name"),
        ("model_name", 'model_name = "con"', "model_name: 'con' is a device on Windows"),
        ("exact_match_min", "exact_match_min = nan", "gates.exact_match_min: "),
        ("exact_match_min", "exact_match_min = -0.1", "gates.exact_match_min: "),
        ("norm_outlier_ratio_max", "norm_outlier_ratio_max = inf", "gates.norm_outlier_ratio_max: "),
        ("learning_rate", "learning_rate = inf", "teacher.training.learning_rate: "),
        ("kv_heads", "kv_heads = 3", "4 heads cannot share 3 kv_heads evenly"),
        ("turns", 'turns = "chatml"', 'teacher.base is a Gemma 3 from scratch, whose turns are "gemma", not "chatml"'),
        ("temperature", "temperature = 2.0\ncache_top_k = 4096", "cache_top_k"),
    ],
)
def test_what_would_fail_after_training_is_told_before(key: str, line: str, fault: str, tmp_path: Path) -> None:
    path = write(tmp_path / "p.toml", **{key: line})
    with pytest.raises(UsageError) as caught:
        load_profile(str(path))
    assert fault in str(caught.value) and "\n" not in str(caught.value)


def test_a_loss_of_nothing_and_too_many_layers_are_refused(tmp_path: Path) -> None:
    text = (PROFILES_FOLDER / "tiny.toml").read_text()
    path = tmp_path / "p.toml"
    path.write_text(text.replace("alpha_kd = 0.7", "alpha_kd = 0").replace("alpha_ce = 0.3", "alpha_ce = 0"))
    with pytest.raises(UsageError, match="nothing would be learnt"):
        load_profile(str(path))
    path.write_text(f"{text}\n[student.depth]\nlayers = 4\n")
    with pytest.raises(UsageError, match=r"student\.depth\.layers is 4 of the base's 4; keep fewer"):
        load_profile(str(path))


def test_faults_between_the_parts_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "p.toml", weights='weights = "f16"', turns='turns = "chatml"')
    with pytest.raises(UsageError, match=r"qat is for block types.*; teacher\.base is a Gemma 3 from scratch"):
        load_profile(str(path))


@pytest.mark.parametrize(
    ("line", "missing"), [("load_bits = 8\n", "bitsandbytes"), ("[vocabulary]\nwords = 9\nminimum_count = 1\n", "word")]
)
def test_a_package_that_a_later_step_needs_is_asked_for_first(
    line: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    load_profile("tiny").require_packages()
    text = (PROFILES_FOLDER / "tiny.toml").read_text()
    changed = text.replace('teacher_bits = "auto"', "teacher_bits = 8") if "bits" in line else f"{text}\n{line}"
    (tmp_path / "p.toml").write_text(changed)
    with pytest.raises(UsageError, match=missing):
        load_profile(str(tmp_path / "p.toml")).require_packages()
