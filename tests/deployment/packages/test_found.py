"""What a MODEL is found to be, and what is known of it."""

import shutil
from pathlib import Path

import pytest
from small_package import LABELS, make_package

from deployment.answers.rules import default_rules
from deployment.packages.found import find_model
from deployment.packages.package import Package
from deployment.runtimes.decoding import FREE, Mode
from registry.errors import UsageError
from registry.records import LabelSet, label_set_toml


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return make_package(tmp_path_factory.mktemp("made"), instruction="Answer with JSON.")


def find(model: object, labels: Path | None = None):
    return find_model(str(model), labels=labels)


def test_a_package_is_the_same_by_its_folder_and_by_its_file(package: Package):
    found = find(package.path)
    assert found == find(package.gguf)
    assert (found.spec, found.prompt, found.limits) == (str(package.gguf), package.prompt, package.modelfile.limits)
    assert (found.labels, found.rules) == (package.labels, package.rules)


@pytest.mark.parametrize("model", ["http://127.0.0.1:8080/v1#plant.gguf", "ollama:hf.co/plant/plant.gguf"])
def test_a_model_of_a_server_is_no_file_by_any_name(model: str):
    assert find(model).spec == model


def test_a_changed_file_in_a_package_is_refused_by_either_name(package: Package, tmp_path: Path):
    copy = shutil.copytree(package.path, tmp_path / "copy")
    (copy / "answers.json").write_text("{}")
    for model in (copy, copy / package.gguf.name):
        with pytest.raises(UsageError, match=r"answers\.json"):
            find(model)


def test_a_file_takes_what_lies_beside_it(package: Package, tmp_path: Path):
    gguf = Path(shutil.copy(package.gguf, tmp_path))
    bare = find(gguf)
    assert (bare.prompt, bare.labels, bare.rules) == (None, None, None)
    shutil.copy(package.path / "labels.toml", tmp_path)
    assert find(gguf).labels == package.labels
    for name in ("Modelfile", "answers.json"):
        shutil.copy(package.path / name, tmp_path)
    assert find(gguf) == find(package.path).__class__(
        spec=str(gguf),
        prompt=package.prompt,
        limits=package.modelfile.limits,
        labels=package.labels,
        rules=package.rules,
    )


def test_a_modelfile_of_another_file_says_nothing(package: Package, tmp_path: Path):
    other = Path(shutil.copy(package.gguf, tmp_path / "other.gguf"))
    shutil.copy(package.path / "Modelfile", tmp_path)
    assert find(other).prompt is None


@pytest.mark.parametrize("model", ["ollama:gemma3", "http://127.0.0.1:8080", "some/folder"])
def test_all_else_is_what_it_was_given_as(model: str):
    found = find(model)
    assert (found.spec, found.labels) == (model, None)
    assert found.decoding(Mode.FREE) is FREE


def test_labels_that_are_given_hold_what_has_none(tmp_path: Path):
    with pytest.raises(UsageError, match="--labels"):
        find("ollama:gemma3").decoding(Mode.GROUNDED)
    path = tmp_path / "labels.toml"
    path.write_text(label_set_toml(LABELS))
    found = find("ollama:gemma3", path)
    assert (found.labels, found.rules) == (LABELS, default_rules(LABELS))


def test_the_rules_of_a_package_are_not_for_other_labels(package: Package, tmp_path: Path):
    path = tmp_path / "labels.toml"
    other = LabelSet(name="other", intents={"report": ""}, entities={"place": ""})
    path.write_text(label_set_toml(other))
    found = find(package.path, path)
    assert (found.labels, found.rules) == (other, default_rules(other))
