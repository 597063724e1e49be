"""Versions of a model on a real MLflow store: registration, promotion, rollback."""

import json
from pathlib import Path

import pytest
from registered import aliases, make_package, register, snapshot_in

from registry import models
from registry.artifacts import write_checksums
from registry.errors import GateBlocked, UsageError
from registry.home import Home
from registry.tracking.client import connection


def test_versions_are_listed_newest_first(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="has no version yet; gemmill retrain registers one"):
        models.versions(name)
    first, second = register(tmp_path, name, "one", verdict=False), register(tmp_path, name, "two")
    assert models.versions(name) == [models.resolve(name, version.version) for version in (second, first)]
    assert [version.passed for version in models.versions(name)] == [True, False]


def test_a_version_carries_its_card_its_metrics_and_its_digests(name: str, tmp_path: Path) -> None:
    version = register(tmp_path, name, "one")
    assert (version.name, version.version, version.aliases, version.passed) == (
        name,
        1,
        ("challenger",),
        True,
    )
    assert version.metrics == {"gguf.exact_match": 0.9}
    assert version.tags["gate_verdict"] == "passed"
    assert version.tags["git_revision"] == "c0ffee"
    assert len(version.tags["package_sha256"]) == len(version.tags["gguf_sha256"]) == 64
    stored = connection().client.get_model_version(name, "1")
    assert stored.description == "# The card of one\n"
    assert stored.run_id == version.run_id


def test_the_logged_model_has_a_signature_a_run_and_no_pickle(name: str, tmp_path: Path, home: Path) -> None:
    version = register(tmp_path, name, "one")
    client = connection().client
    model_id = client.get_model_version(name, "1").source.removeprefix("models:/")
    model = client.get_logged_model(model_id)
    assert model.source_run_id == version.run_id
    assert model.params == {"profile": "tiny"}
    assert json.loads(model.tags["mlflow.modelVersions"])[0]["name"] == name
    assert client.get_run(version.run_id).outputs.model_outputs[0].model_id == model_id
    described = client.list_logged_model_artifacts(model_id)
    assert sorted(item.path for item in described) == [
        "MLmodel",
        "conda.yaml",
        "input_example.json",
        "package",
        "python_env.yaml",
        "requirements.txt",
        "serving_input_example.json",
    ]
    text = next((home / "mlartifacts").rglob(f"{model_id}/artifacts/MLmodel")).read_text()
    assert "intent" in text
    assert "gguf: package/model-q8_0.gguf" in text or "data: package/model-q8_0.gguf" in text
    assert "pickle" not in text


def test_metrics_of_a_version_name_the_test_split(name: str, tmp_path: Path) -> None:
    with models.retrain_run("tiny") as run:
        models.log_snapshot(run.run_id, snapshot_in(tmp_path / "snapshot"))
        run.log_metrics({"gguf.exact_match": 0.9})
        models.register_version(
            run.run_id, make_package(tmp_path / "p"), model_name=name, verdict=True, tags={}, example="Leak at SG-402"
        )
    client = connection().client
    model_id = client.get_model_version(name, "1").source.removeprefix("models:/")
    (metric,) = client.get_logged_model(model_id).metrics
    assert (metric.dataset_name, metric.dataset_digest) == ("plant.test", "0123456789ab")


def test_a_blocked_version_is_registered_without_an_alias(name: str, tmp_path: Path) -> None:
    version = register(tmp_path, name, "one", verdict=False)
    assert (version.aliases, version.tags["gate_verdict"], version.passed) == ((), "blocked", False)


def test_the_same_package_keeps_its_version_and_takes_the_new_verdict(name: str, tmp_path: Path) -> None:
    first = register(tmp_path / "a", name, "same")
    again = register(tmp_path / "b", name, "same", verdict=False)
    assert again.version == first.version
    assert (again.passed, again.aliases) == (False, ())
    assert register(tmp_path / "c", name, "same").aliases == ("challenger",)


def test_a_champion_that_is_made_again_does_not_challenge_itself(name: str, tmp_path: Path) -> None:
    register(tmp_path / "a", name, "same")
    models.promote(name, 1)
    assert register(tmp_path / "b", name, "same").aliases == ("champion",)


def test_a_folder_that_is_no_package_is_not_registered(name: str, tmp_path: Path) -> None:
    package = make_package(tmp_path / "p")
    (package / "second.gguf").write_bytes(b"GGUF")
    write_checksums(package)
    with models.retrain_run("tiny") as run, pytest.raises(UsageError, match="holds 2 GGUF files"):
        models.register_version(run.run_id, package, model_name=name, verdict=True, tags={}, example="Leak at SG-402")
    (package / "second.gguf").write_bytes(b"GGUF changed")
    with models.retrain_run("tiny") as run, pytest.raises(UsageError, match=r"second.gguf has changed"):
        models.register_version(run.run_id, package, model_name=name, verdict=True, tags={}, example="Leak at SG-402")
    assert models.find(name, "challenger") is None


def test_promotion_moves_the_champion_and_keeps_the_one_before(name: str, tmp_path: Path) -> None:
    register(tmp_path, name, "one")
    register(tmp_path, name, "two")
    assert models.promote(name, 1).aliases == ("champion",)
    assert models.promote(name, "challenger").version == 2
    assert aliases(name) == {"champion": 2, "previous_champion": 1}
    assert models.resolve(name, 2).tags["champion_set_by"]


def test_a_blocked_version_is_never_promoted(name: str, tmp_path: Path) -> None:
    register(tmp_path, name, "one")
    models.promote(name, 1)
    register(tmp_path, name, "two", verdict=False)
    with pytest.raises(GateBlocked, match="version 2 has the gate_verdict 'blocked'"):
        models.promote(name, 2)
    assert aliases(name) == {"champion": 1}


def test_a_rollback_is_one_step_and_can_be_taken_back(name: str, tmp_path: Path) -> None:
    register(tmp_path, name, "one")
    register(tmp_path, name, "two")
    with pytest.raises(UsageError, match="no previous champion"):
        models.rollback(name)
    models.promote(name, 1)
    models.promote(name, 2)
    assert models.rollback(name).version == 1
    assert aliases(name) == {"champion": 1, "previous_champion": 2}
    assert models.rollback(name).version == 2


def test_promoting_the_champion_again_changes_nothing(name: str, tmp_path: Path) -> None:
    register(tmp_path, name, "one")
    models.promote(name, 1)
    models.promote(name, 1)
    assert aliases(name) == {"champion": 1}
    assert len(models.alias_history(name)) == 1


def test_a_promotion_by_hand_is_noted_and_can_be_rolled_back(name: str, tmp_path: Path) -> None:
    register(tmp_path, name, "one")
    register(tmp_path, name, "two")
    models.promote(name, 1)
    connection().client.set_registered_model_alias(name, "champion", "2")  # what the MLflow UI does
    models.note_promotion_by_hand(name)
    assert aliases(name)["previous_champion"] == 1
    assert models.rollback(name).version == 1
    moves = [(move["action"], move["version"], move["replaced"]) for move in models.alias_history(name)]
    assert moves == [("promote", 1, None), ("by hand", 2, 1), ("rollback", 1, 2)]


def test_a_champion_that_was_deleted_does_not_stand_in_the_way(name: str, tmp_path: Path) -> None:
    register(tmp_path, name, "one")
    register(tmp_path, name, "two")
    models.promote(name, 1)
    connection().client.delete_model_version(name, "1")
    assert models.promote(name, 2).aliases == ("champion",)


def test_the_history_is_bounded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_HISTORY_LENGTH", 3)
    register(tmp_path, name, "one")
    register(tmp_path, name, "two")
    models.promote(name, 1)
    models.promote(name, 2)
    for _ in range(3):
        models.rollback(name)
    assert [move["action"] for move in models.alias_history(name)] == ["rollback"] * 3


def test_what_does_not_exist_is_said_with_what_to_do(name: str, tmp_path: Path) -> None:
    assert models.find(name, "champion") is None
    assert models.alias_history(name) == []
    with pytest.raises(UsageError, match=r"no version with the alias 'champion'; gemmill promote"):
        models.resolve(name, "champion")
    with pytest.raises(UsageError, match="has no version 7"):
        models.resolve(name, 7)


def test_what_an_alias_names_is_known_without_fetching_it(name: str, tmp_path: Path, home: Path) -> None:
    located = Home(path=home)
    for number, content in enumerate(("one", "two"), start=1):
        register(tmp_path, name, content)
        models.promote(name, number)
        named = models.named_version(f"models:/{name}@champion", located)
        assert named is not None
        assert named.version == number
        assert not located.package(name, number).exists()
    assert models.local_model(f"models:/{name}/1", located) == str(located.package(name, 1))
    assert models.named_version("model.gguf", located) is None
    assert models.local_model("model.gguf", located) == "model.gguf"
    for wrong in ("models:/", f"models:/{name}", f"models:/{name}@nobody"):
        with pytest.raises(UsageError):
            models.named_version(wrong, located)
