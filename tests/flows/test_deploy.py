"""Deployment by alias: a real registry, a stand-in for the device."""

import shutil
from pathlib import Path

import pytest
from canned_server import CannedServer
from command_line import gemmill_process
from fake_ollama import FakeOllama
from small_package import GOLDEN, NAME, make_package, small_gguf

from deployment.prompts.prompt import Prompt
from flows.deploy import DevicesFailed, SecretUrl, deploy, deploy_version
from registry import models
from registry.errors import GateBlocked, UsageError
from registry.tracking.client import connection

ANSWERS = {Prompt().render(command): answer for command, answer in GOLDEN}


def knows_its_prompts(prompt: str, options: dict) -> str:
    return ANSWERS.get(prompt, "?")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with version 1 (champion), 2 (passed, challenger), 3 (blocked) and 4, its GGUF in another order."""
    home = tmp_path_factory.mktemp("deploy")
    models.connect(home)
    for content, verdict in (("one", True), ("two", True), ("three", False), ("four", True)):
        file = small_gguf(content, in_order=content != "four")
        package = make_package(tmp_path_factory.mktemp(content), content=file)
        with models.retrain_run(content) as run:
            models.register_version(
                run.run_id, package.path, model_name=NAME, verdict=verdict, tags={}, example="Leak at SG-402"
            )
    return home


@pytest.fixture(autouse=True)
def champion_is_version_1(home: Path) -> None:
    models.connect(home)
    connection().client.set_registered_model_alias(NAME, "champion", "1")


def test_the_champion_reaches_every_device(home: Path) -> None:
    with FakeOllama(knows_its_prompts) as first, FakeOllama(knows_its_prompts) as second:
        report = deploy_version(NAME, "champion", [first.address, second.address], home)
        assert report.model_version == 1
        assert [device.device for device in report.devices] == [first.address, second.address]
        for device in (first, second):
            assert device.model(NAME).digest == f"sha256:{report.gguf_sha256}"


def test_a_champion_set_in_the_mlflow_ui_is_deployed_and_can_be_rolled_back(home: Path) -> None:
    with FakeOllama(knows_its_prompts) as ollama:
        deploy_version(NAME, "champion", [ollama.address], home)
        connection().client.set_registered_model_alias(NAME, "champion", "2")  # what the MLflow UI does
        assert deploy_version(NAME, "champion", [ollama.address], home).model_version == 2
    assert models.rollback(NAME).version == 1


def test_a_number_names_a_version_too(home: Path) -> None:
    with FakeOllama(knows_its_prompts) as ollama:
        assert deploy_version(NAME, "2", [ollama.address], home).model_version == 2


def test_a_blocked_version_is_not_deployed_even_if_a_person_made_it_champion(home: Path) -> None:
    connection().client.set_registered_model_alias(NAME, "champion", "3")
    with FakeOllama(knows_its_prompts) as ollama:
        with pytest.raises(GateBlocked, match="version 3 did not pass its gates"):
            deploy_version(NAME, "champion", [ollama.address], home)
        assert not ollama.models


def test_one_bad_device_does_not_stop_the_others(home: Path) -> None:
    with FakeOllama(lambda prompt, options: "?") as bad, FakeOllama(knows_its_prompts) as good:
        with pytest.raises(DevicesFailed, match=r"^2 of 3 devices failed\. No Ollama answers at") as caught:
            deploy_version(NAME, "champion", ["127.0.0.1:9", bad.address, good.address], home)
        assert good.model(NAME)
    report = caught.value.report
    assert [device.device for device in report.devices] == [good.address]
    assert [failure.device for failure in report.failures] == ["127.0.0.1:9", bad.address]
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    "body",
    ["<html>Welcome</html>", "{}", "[]", '{"version": 7}', '{"version": "1'],
    ids=["page", "{}", "[]", "7", "half"],
)
def test_what_is_no_ollama_fails_alone_in_one_sentence(home: Path, body: str) -> None:
    with CannedServer(body) as other, FakeOllama(knows_its_prompts) as good:
        with pytest.raises(DevicesFailed) as caught:
            deploy_version(NAME, "champion", [f"bob:secret@{other.host}", good.address], home)
        assert good.model(NAME)
    [failure] = caught.value.report.failures
    assert failure.device == f"bob:***@{other.host}"
    assert failure.reason.startswith(
        f"http://bob:***@{other.host} does not answer as Ollama does; is another service there"
    )
    assert [device.device for device in caught.value.report.devices] == [good.address]
    assert caught.value.exit_code == 5


def test_a_package_of_an_older_gemmill_is_told_from_a_file_that_was_damaged(home: Path) -> None:
    with FakeOllama(knows_its_prompts) as ollama, pytest.raises(DevicesFailed) as caught:
        deploy_version(NAME, "4", [ollama.address], home)
    assert "rewrites what it is given into llama.cpp's order, and version 4" in str(caught.value)
    assert caught.value.exit_code == 3
    other = "sha256:" + "0" * 64
    with FakeOllama(knows_its_prompts, told_digest=other) as ollama, pytest.raises(DevicesFailed) as caught:
        deploy_version(NAME, "1", [ollama.address], home)
    assert "from 0000" in str(caught.value)
    assert "order" not in str(caught.value)


def test_temporary_files_may_lie_on_another_file_system(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == home.stat().st_dev:
        pytest.skip("needs a second file system, which /dev/shm is on Linux")
    monkeypatch.setattr("tempfile.tempdir", str(memory))
    shutil.rmtree(home / "packages", ignore_errors=True)
    with FakeOllama(knows_its_prompts) as ollama:
        assert deploy_version(NAME, "champion", [ollama.address], home).devices


def test_the_device_of_the_environment_is_the_default(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    with pytest.raises(DevicesFailed, match=r"^No Ollama answers at http://127\.0\.0\.1:9; start") as caught:
        deploy_version(NAME, "champion", home=home)
    assert caught.value.exit_code == 5


def test_without_a_champion_the_next_step_is_said(home: Path) -> None:
    with pytest.raises(UsageError, match="gemmill promote VERSION"):
        deploy_version("another-model", "champion", home=home)


def test_the_flow_tables_what_became_of_each_device(home: Path, prefect_server: str) -> None:
    from prefect.client.orchestration import get_client

    with FakeOllama(knows_its_prompts) as ollama:
        report = deploy(NAME, devices=[SecretUrl(ollama.address)], home=home)
        with pytest.raises(DevicesFailed):
            deploy(NAME, devices=[SecretUrl("http://bob:geheim77@127.0.0.1:9")], home=home)
        with get_client(sync_client=True) as client:
            stored = [run.parameters.get("devices") for run in client.read_flow_runs()]
            tables = [artifact.data for artifact in client.read_artifacts()]
    assert report.devices[0].golden_passed == 2
    assert ["http://bob:***@127.0.0.1:9"] in stored and [ollama.address] in stored
    assert any(ollama.address in str(table) for table in tables)
    assert any("No Ollama answers" in str(table) for table in tables)


@pytest.mark.slow
def test_no_password_of_a_device_is_stored(home: Path) -> None:
    device = "http://bob:geheim77@127.0.0.1:1"
    ran = gemmill_process(  # what is empty counts as unset, and Prefect's state is the home's
        home, "deploy", "--model-name", NAME, "--device", device, PREFECT_HOME="", PREFECT_API_URL=""
    )
    ran.assert_refused(5, "No Ollama answers at http://bob:***@127.0.0.1:1")
    files = [path.read_bytes() for path in home.rglob("*") if path.is_file()]
    assert not [content for content in files if b"geheim77" in content]
    assert any(b"bob:***@127.0.0.1:1" in path.read_bytes() for path in (home / "prefect").glob("prefect.db*"))
