"""``--summary``: a place that cannot be written is told before the deed, and the file's form is what scripts read."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Gemmill
from fake_ollama import FakeOllama
from small_package import GOLDEN, NAME, make_package

import flows.deploy
from data_checks.contract import write_jsonl
from deployment.prompts.prompt import Prompt
from flows.deploy import DeployReport, SecretUrl, deploy_version
from flows.ingest import ingest_paths
from registry import models
from registry.home import Home
from registry.records import Record, Response
from registry.store.datasets import AuditStore


@pytest.fixture
def without_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    def deploy(model_name: str, alias: str, devices: list[SecretUrl], home: Path) -> DeployReport:
        return deploy_version(model_name, alias, [device.get_secret_value() for device in devices], home)

    monkeypatch.setattr(flows.deploy, "deploy", deploy)


@pytest.mark.parametrize("command", [["promote", "1"], ["rollback"], ["deploy"], ["ingest", "{data}"], ["due"]])
def test_a_summary_that_cannot_be_written_is_told_before_the_deed(
    command: list[str], gemmill: Gemmill, data: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    ran = gemmill(*(part.format(data=data) for part in command), "--home", home, "--summary", data)
    ran.assert_refused(2, "is a folder where a file is to be written")
    assert not home.exists()


def test_what_the_devices_said_outlives_a_summary_that_cannot_be_written(
    gemmill: Gemmill, tmp_path: Path, without_prefect: None
) -> None:
    home, summary = tmp_path / "home", tmp_path / "deployed.json"
    models.connect(home)
    with models.retrain_run("one") as run:
        package = make_package(tmp_path / "one")
        models.register_version(
            run.run_id, package.path, model_name=NAME, verdict=True, tags={}, example="Leak at SG-402"
        )
    models.promote(NAME, 1)

    def wrong(prompt: str, options: dict[str, Any]) -> str:
        summary.mkdir(exist_ok=True)
        return "?"

    with FakeOllama(wrong) as ollama:
        ran = gemmill("deploy", "--device", ollama.address, "--home", home, "--summary", summary)
    assert ran.code == 3, ran
    assert "golden prompts differently" in ran.err.strip().rpartition("error: ")[2], ran.err
    assert "deployed.json" in ran.err and ollama.address in ran.out

    summary.rmdir()
    answers = {Prompt().render(command): answer for command, answer in GOLDEN}
    with FakeOllama(lambda prompt, options: answers.get(prompt, "?")) as ollama:
        ran = gemmill("deploy", "--device", ollama.address, "--home", home, "--summary", summary)
    assert ran.code == 0, ran
    assert json.loads(summary.read_text())["devices"][0]["device"] == ollama.address


def test_due_writes_one_verdict_flat_and_those_of_several_datasets_by_name(gemmill: Gemmill, tmp_path: Path) -> None:
    home, summary = tmp_path / "home", tmp_path / "due.json"

    def told(*options: str) -> dict[str, Any]:
        assert gemmill("due", "--home", home, "--summary", summary, *options).code == 0
        return json.loads(summary.read_text())

    with AuditStore(Home.locate(home).made().database_url) as store:
        for name in ("a", "b"):
            file = tmp_path / f"{name}.jsonl"
            write_jsonl(file, [Record(command=f"{name} leaks", response=Response(intent="report_issue", entities={}))])
        ingest_paths(store, [tmp_path / "a.jsonl"])
        alone = told()
        ingest_paths(store, [tmp_path / "b.jsonl"])
    assert alone.keys() == {"due", "new_rows", "minimum_rows", "since_snapshot"}
    assert told("--dataset", "a") == alone
    assert told() == {"a": alone, "b": alone}
