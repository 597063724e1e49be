"""The whole line on real parts: a Prefect flow, an MLflow store, a trained model, llama.cpp on the GGUF file.

The first retrain starts as a user's does, with a Prefect server of its own; the later ones share the tests' server, and
run in this process where nothing is asked of what they print: a process takes ten seconds to import its libraries.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from command_line import Gemmill, gemmill_process

from data_checks.contract import read_jsonl, write_jsonl
from data_checks.sample import SAMPLE_DIR
from flows.settings import PROFILES_FOLDER
from registry import models
from registry.artifacts import Artifact
from registry.files import file_sha256
from registry.records import OUT_OF_SCOPE, answer_text, label_set_toml, load_label_set, same_answer
from registry.tracking.client import connection
from tasks.bases.scratch import build_scratch_base
from tasks.bases.spec import ScratchBase
from tasks.gguf.container import GgufFile

_FLOORS = ("json_validity", "intent_accuracy", "exact_match", "entity_f1", "oos_recall", "oos_precision")


def _profile(folder: Path, *, floor: float) -> Path:
    """The shipped tiny profile, trained for a moment only."""
    text = (PROFILES_FOLDER / "tiny.toml").read_text()
    lines = []
    for line in text.splitlines():
        key = line.partition(" = ")[0]
        if key == "epochs":
            line = "epochs = 1\nmax_steps = 40"
        elif key.removesuffix("_min") in _FLOORS:
            line = f"{key} = {floor}"
        elif key == "max_drop":
            line = "max_drop = 1.0"
        elif key == "max_new_tokens":
            line = "max_new_tokens = 24"
        lines.append(line)
    path = folder / f"floor-{floor}.toml"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mostly out of scope, which a model learns to say in a few steps; two golden commands, one of them a report."""
    folder = tmp_path_factory.mktemp("plant")
    for split, rows in (("train", 320), ("validation", 40), ("test", 40)):
        records, _ = read_jsonl(SAMPLE_DIR / f"{split}.jsonl")
        foreign = [record for record in records if record.response.intent == OUT_OF_SCOPE]
        reports = [record for record in records if record.response.intent == "report_issue"]
        write_jsonl(folder / f"{split}.jsonl", [*foreign[: rows * 3 // 4], *reports[: rows // 4]])
    golden = (reports[3].command, foreign[2].command)
    labels = load_label_set(SAMPLE_DIR / "labels.toml").model_copy(update={"golden": golden})
    (folder / "labels.toml").write_text(label_set_toml(labels))
    return folder


@pytest.fixture(scope="module")
def first(home: Path, data: Path) -> dict:
    """The summary of a retrain whose gates pass, their floors being 0."""
    environment = {**os.environ, "GEMMILL_HOME": str(home), "HOME": str(home)}
    del environment["PREFECT_HOME"]
    arguments = ["--profile", _profile(home, floor=0.0), "--data", data, "--summary", home / "first.json"]
    result = subprocess.run(
        [sys.executable, "-m", "flows.cli.main", "retrain", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr + result.stdout
    summary = json.loads((home / "first.json").read_text())
    for answer in summary["answers"]:
        said = f"> {answer['command']}\n  {answer['answer']}\n"
        assert said + ("" if answer["ok"] else f"  not as expected, which is {answer['expected']}\n") in result.stdout
    return summary


def test_a_candidate_that_passed_is_the_challenger(first: dict) -> None:
    assert first["passed"]
    assert first["aliases"] == ["challenger"]
    assert first["model_version"] == 1
    assert set(first["metrics"]) == {"teacher", "student", "gguf", "gguf_grounded"}
    assert first["metrics"]["gguf_grounded"]["json_validity"] == 1
    assert {"prompt_parity", "gguf_verification", "norm_outliers_vs_base"} <= {gate["name"] for gate in first["gates"]}


def test_every_artifact_of_the_summary_has_the_digest_it_says(first: dict) -> None:
    for artifact in first["artifacts"]:
        assert Artifact.model_validate(artifact).verify().exists()


def test_the_package_holds_the_measured_file(first: dict) -> None:
    artifacts = {artifact["kind"]: artifact for artifact in first["artifacts"]}
    shipped = list(Path(artifacts["package"]["path"]).glob("*.gguf"))
    assert [file_sha256(path) for path in shipped] == [artifacts["gguf"]["sha256"]]


def test_the_golden_commands_of_the_label_set_come_first_with_the_answers_of_the_file(first: dict, data: Path) -> None:
    records, _ = read_jsonl(data / "test.jsonl")
    truth = {record.command: record.response for record in records}
    labels = load_label_set(data / "labels.toml")
    artifacts = {artifact["kind"]: Path(artifact["path"]) for artifact in first["artifacts"]}
    golden = [json.loads(line) for line in (artifacts["package"] / "golden.jsonl").read_text().splitlines()]
    assert len(golden) == 8
    assert [item["command"] for item in golden[:2]] == list(labels.golden)
    assert [(item["command"], item["answer"]) for item in golden[:3]] == [
        (item["command"], item["answer"]) for item in first["answers"]
    ]
    for item in first["answers"]:
        assert item["expected"] == answer_text(truth[item["command"]], labels)
        assert item["ok"] == same_answer(item["answer"], item["expected"])


def test_the_base_is_named_by_its_digest_wherever_the_file_goes(first: dict, home: Path) -> None:
    [folder] = (home / "bases").iterdir()
    digest = Artifact.of("base", folder).sha256
    artifacts = {artifact["kind"]: Path(artifact["path"]) for artifact in first["artifacts"]}
    assert f"- base_sha256: `{digest}`" in (artifacts["package"] / "README.md").read_text().splitlines()
    with GgufFile(artifacts["gguf"]) as file:
        assert file.metadata["gemmill.base_sha256"] == digest
    models.connect(home)
    assert models.resolve(first["model_name"], first["model_version"]).tags["base_sha256"] == digest


def logged(run_id: str, folder: str | None = None) -> set[str]:
    """The paths of all artifacts of an MLflow run."""
    items = connection().client.list_artifacts(run_id, folder)
    return {path for item in items for path in (logged(run_id, item.path) if item.is_dir else {item.path})}


def test_the_mlflow_run_holds_inputs_stages_reports_and_package(first: dict, home: Path) -> None:
    models.connect(home)
    client = connection().client
    run = client.get_run(first["run_id"])
    below = client.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{run.info.run_id}'")
    stages = {child.data.tags["stage"]: logged(child.info.run_id) for child in below}
    assert set(stages) == {"data_checks", "teacher", "student", "export", "evaluate-teacher", "evaluate-student",
                           "evaluate-gguf", "evaluate-gguf-grounded", "forensics"}  # fmt: skip
    assert all("losses.png" in stages[stage] for stage in ("teacher", "student"))
    assert {"forensics/norm_gains_base.png", "forensics/weights_student.png"} <= stages["forensics"]
    inputs = {item.dataset.name.rpartition(".")[2]: item.dataset.digest for item in run.inputs.dataset_inputs}
    assert inputs == dict.fromkeys(("train", "validation", "test"), first["snapshot"]["id"])
    assert {
        "profile.json", "summary.json", "data_docs/index.html", "evaluation/evaluate-teacher.html",
        "evaluation/evaluate-student.html", "evaluation/evaluate-gguf.html", "forensics/inspection.html",
    } <= logged(run.info.run_id)  # fmt: skip
    assert "Evaluation, free and grounded" in Path(first["reports"]["evaluation"]).read_text()
    for stage, prefix in (("teacher", "teacher."), ("student", "student."), ("gguf", "")):
        assert run.data.metrics[f"{prefix}intent_accuracy"] == first["metrics"][stage]["intent_accuracy"]
    [kept] = (home / "precision").iterdir()  # teacher and student have the same matrices
    chosen = json.loads(kept.read_text())["precision"]
    bits = "16" if chosen == "bf16" else "32"
    params = {name.removeprefix("chosen."): value for name, value in run.data.params.items() if "chosen." in name}
    assert params == {"teacher": chosen, "student": chosen, "teacher_bits": bits}
    trained = {child.data.tags["stage"]: child.data.params for child in below}
    assert (trained["student"]["precision"], trained["student"]["teacher_bits"]) == (chosen, bits)
    [package] = run.outputs.model_outputs
    assert "package" in {item.path for item in client.list_logged_model_artifacts(package.model_id)}


def test_the_package_and_the_run_say_how_sure_its_answers_are(first: dict, home: Path) -> None:
    artifacts = {artifact["kind"]: Path(artifact["path"]) for artifact in first["artifacts"]}
    doubt = json.loads((artifacts["package"] / "answers.json").read_text())["doubt"]
    assert (doubt["in_scope_rows"], doubt["out_of_scope_rows"], doubt["source"]) == (10, 30, "validation rows")
    assert (doubt["ask_below"], first["doubt"]["ask_below"], first["doubt"]["rows"]) == (0.5, 0.5, 40)
    models.connect(home)
    client = connection().client
    run = client.get_run(first["run_id"])
    below = client.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{run.info.run_id}'")
    [grounded] = [child for child in below if child.data.tags["stage"] == "evaluate-gguf-grounded"]
    assert grounded.data.metrics["doubt.auroc"] == first["doubt"]["auroc"]["value"]


def test_its_weights_are_inspected_by_package_and_by_name(first: dict, home: Path, gemmill: Gemmill) -> None:
    artifacts = {artifact["kind"]: Path(artifact["path"]) for artifact in first["artifacts"]}
    named = f"models:/{first['model_name']}/{first['model_version']}"
    report, found = home / "norms.json", []
    for model in (artifacts["gguf"], artifacts["package"], named):
        ran = gemmill("inspect", model, "--json", report, "--home", home)
        assert ran.code == 0, ran
        found.append(json.loads(report.read_text())["tensors"])
    assert found[0] == found[1] == found[2]
    assert gemmill("import", named, home / "imported", "--home", home).code == 0
    assert (home / "imported" / "model.safetensors").is_file()


def test_an_unchanged_retrain_reuses_every_step_and_keeps_the_version(
    first: dict, home: Path, data: Path, gemmill: Gemmill, prefect_server: str
) -> None:
    profile, summary = home / "floor-0.0.toml", home / "again.json"
    ran = gemmill("retrain", "--profile", profile, "--data", data, "--home", home, "--summary", summary)
    assert ran.code == 0, ran
    again = json.loads(summary.read_text())
    assert again["model_version"] == first["model_version"]
    assert set(again["reused"]) == set(again["seconds"])
    models.connect(home)
    before, after = (connection().client.get_run(summary["run_id"]).data.metrics for summary in (first, again))
    assert logged(again["run_id"]) == logged(first["run_id"]) and after.keys() == before.keys()


def test_a_blocked_candidate_gets_a_version_without_alias_and_exits_with_3(
    first: dict, home: Path, data: Path, gemmill: Gemmill, prefect_server: str
) -> None:
    arguments = ["--profile", _profile(home, floor=1.0), "--data", data, "--summary", home / "blocked.json"]
    ran = gemmill_process(home, "retrain", *arguments, PREFECT_API_URL=prefect_server)
    blocked = json.loads((home / "blocked.json").read_text())
    assert ran.code == 3
    assert "exact_match" in ran.err
    assert "Traceback" not in ran.err
    assert not blocked["passed"]
    assert blocked["aliases"] == []
    assert blocked["model_version"] != first["model_version"]
    assert gemmill("promote", blocked["model_version"], "--home", home).code == 3


def test_a_champion_is_asked_the_same_rows(
    first: dict, home: Path, data: Path, gemmill: Gemmill, prefect_server: str
) -> None:
    assert gemmill("promote", first["model_version"], "--home", home).code == 0
    profile, summary = home / "floor-0.0.toml", home / "challenge.json"
    ran = gemmill("retrain", "--profile", profile, "--data", data, "--home", home, "--summary", summary)
    gates = {gate["name"]: gate for gate in json.loads(summary.read_text())["gates"]}
    assert ran.code == 0, ran
    assert gates["exact_match_vs_champion"]["baseline"] == first["metrics"]["gguf"]["exact_match"]
    assert gates["norm_outliers_vs_champion"]["passed"]


def test_bad_lines_are_shown_with_their_numbers_and_exit_with_4(
    bad_data: Path, gemmill: Gemmill, prefect_server: str, tmp_path: Path
) -> None:
    ran = gemmill("retrain", "--data", bad_data, "--home", tmp_path)
    assert ran.code == 4 and "first: bad.jsonl line 2" in ran.err


def _from_folder(home: Path, base: Path) -> tuple[str, str]:
    """The profile with ``base`` for its teacher's, before and after the recipes begin."""
    head, _, tail = _profile(home, floor=0.0).read_text().partition("[teacher.base]")
    return f'{head}[teacher.base]\nkind = "folder"\npath = "{base}"\n\n', tail[tail.index("[teacher.training]") :]


@pytest.mark.slow
def test_vocabulary_texts_depth_and_folds_are_steps_of_their_own(
    home: Path, data: Path, gemmill: Gemmill, prefect_server: str, tmp_path: Path
) -> None:
    spec = ScratchBase.model_validate(tomllib.loads((PROFILES_FOLDER / "tiny.toml").read_text())["teacher"]["base"])
    labels = load_label_set(SAMPLE_DIR / "labels.toml")
    build_scratch_base(spec, read_jsonl(SAMPLE_DIR / "train.jsonl", labels)[0], labels, tmp_path / "base")
    head, training = _from_folder(home, tmp_path / "base")
    recipe = training.removeprefix("[teacher.training]").partition("[")[0]
    recipe = recipe.replace('vary_entities = "any_intent"', 'vary_entities = "no"')
    profile, texts, report = tmp_path / "pruned.toml", tmp_path / "texts.txt", tmp_path / "summary.json"
    profile.write_text(
        f"{head}{training}\n[vocabulary]\nwords = 0\nminimum_count = 1\n[student.depth]\nlayers = 3\n"
        f"[pretraining]{recipe}\n[answers]\nfolds = 2\n"
    )
    texts.write_text("".join(f"Surface grinder SG-{number} leaks.\n" for number in range(40)))
    arguments = ["retrain", "--profile", profile, "--data", data, "--home", home, "--summary", report]
    gemmill(*arguments).assert_refused(2, "name them with --texts")
    arguments += ["--texts", texts]
    ran = gemmill(*arguments)
    assert ran.code in (0, 3), ran  # trained for a moment, it may well be blocked
    summary = json.loads(report.read_text())
    assert {"prune_teacher_vocabulary", "pretrain_teacher_base"} <= summary["seconds"].keys()
    assert {"score_fold_1", "score_fold_2"} <= summary["seconds"].keys()
    gates = {gate["name"]: gate["passed"] for gate in summary["gates"]}
    assert gates["prompt_parity"] and gates["gguf_verification"] and gates["norm_outliers_vs_base"]
    artifacts = {artifact["kind"]: Path(artifact["path"]) for artifact in summary["artifacts"]}
    assert file_sha256(next((home / "texts").iterdir())) in (artifacts["package"] / "README.md").read_text()
    [pruned] = (home / "steps").glob("prune_vocabulary-*")
    kept = json.loads((pruned / "vocabulary.json").read_text())
    with GgufFile(artifacts["gguf"]) as file:
        assert len(file.metadata["tokenizer.ggml.tokens"]) == kept["tokens"] < kept["tokens_before"] == 1024
        assert file.metadata["gemmill.base_sha256"] == Artifact.of("base", tmp_path / "base").sha256
        assert file.metadata["gemma3.block_count"] == 3
        measured = json.loads(next((home / "steps").glob("prune_depth-*/depth.json")).read_text())
        assert file.metadata["gemmill.base_layers"] == ",".join(map(str, measured["kept"]))
    doubt = json.loads((artifacts["package"] / "answers.json").read_text())["doubt"]
    assert (doubt["in_scope_rows"], doubt["out_of_scope_rows"]) == (90, 270)
    assert doubt["source"] == "2 folds of the training and validation rows"
    again = gemmill(*arguments)
    assert "prune_teacher_vocabulary" in json.loads(report.read_text())["reused"], again


def test_a_depth_that_cannot_be_exits_with_2_before_the_teacher_is_trained(
    first: dict, home: Path, data: Path, gemmill: Gemmill, prefect_server: str, tmp_path: Path
) -> None:
    profile = tmp_path / "deep.toml"
    text = _profile(home, floor=0.0).read_text().replace("max_steps = 40", "max_steps = 41")
    profile.write_text(f"{text}\n[student.depth]\nlayers = 99\n")
    before = sorted((home / "steps").glob("train_teacher-*"))
    ran = gemmill("retrain", "--profile", profile, "--data", data, "--home", home)
    assert ran.code == 2 and "student.depth.layers is 99 of the base's 4; keep fewer" in ran.err
    assert sorted((home / "steps").glob("train_teacher-*")) == before


def test_a_base_of_too_few_positions_exits_with_2_before_it_is_trained(
    home: Path, data: Path, gemmill: Gemmill, prefect_server: str, tmp_path: Path, tiny_model_dir: Path
) -> None:
    config = json.loads((shutil.copytree(tiny_model_dir, tmp_path / "base") / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32}))
    head, training = _from_folder(home, tmp_path / "base")
    (tmp_path / "short.toml").write_text(head + training)
    before = sorted((home / "steps").glob("train_teacher-*"))
    ran = gemmill("retrain", "--profile", tmp_path / "short.toml", "--data", data, "--home", home)
    assert ran.code == 2 and "was made for 32 together; shorten the records or take another base" in ran.err
    assert sorted((home / "steps").glob("train_teacher-*")) == before


def test_texts_for_a_profile_that_does_not_pre_train_exit_with_2(gemmill: Gemmill, tmp_path: Path) -> None:
    gemmill("retrain", "--texts", tmp_path).assert_refused(2, "has no use for texts")


def test_an_unknown_profile_exits_with_2(gemmill: Gemmill) -> None:
    gemmill("retrain", "--profile", "huge").assert_refused(2, "tiny")


def test_a_label_set_without_audit_files_exits_with_2(gemmill: Gemmill, prefect_server: str, tmp_path: Path) -> None:
    ran = gemmill("retrain", "--labels", SAMPLE_DIR / "labels.toml", "--home", tmp_path)
    assert ran.code == 2 and "--data" in ran.err


def test_deploy_without_an_ollama_exits_with_5(first: dict, home: Path, gemmill: Gemmill, prefect_server: str) -> None:
    ran = gemmill("deploy", "--alias", first["model_version"], "--device", "http://127.0.0.1:9", "--home", home)
    assert ran.code == 5 and "No Ollama answers" in ran.err
