import socket
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from canned_server import CannedServer
from fake_ollama import FakeOllama, Model
from small_package import GOLDEN, NAME, make_package, small_gguf

from deployment.devices.ollama import DeviceReport, FileRewritten, deploy_package
from deployment.packages.package import Package
from deployment.prompts.parity import chats
from deployment.prompts.prompt import Message, Prompt
from registry.errors import GateBlocked, GemmillError, ServiceUnavailable, UsageError


def model_of(*golden: tuple[str, str], instruction: str = ""):
    """A language model that knows the prompts as they are rendered in training, and nothing else."""
    answers = {Prompt(instruction=instruction).render(command): answer for command, answer in golden}

    def answer(prompt: str, options: dict[str, Any]) -> str:
        return answers.get(prompt, "?")

    return answer


def deploy(package: Package, host: str) -> DeviceReport:
    return deploy_package(package, name=NAME, locks=package.path.parent.parent / "locks", host=host)


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return make_package(tmp_path / "new")


def test_a_device_is_switched_over_after_its_golden_answers(package: Package) -> None:
    with FakeOllama(model_of(*GOLDEN)) as ollama:
        report = deploy(package, ollama.address)
        assert report.device == ollama.address
        assert report.gguf_sha256 == package.gguf_sha256
        assert (report.golden_passed, report.golden_total) == (2, 2)
        assert report.tokens_per_second == pytest.approx(100)
        assert list(ollama.models) == [f"{NAME}:latest"]


def test_the_device_gets_the_modelfile_of_the_package(tmp_path: Path) -> None:
    package = make_package(tmp_path, instruction="Answer with JSON.")
    with FakeOllama(model_of(*GOLDEN, instruction="Answer with JSON.")) as ollama:
        deploy(package, ollama.address)
        model = ollama.model(NAME)
    assert model.template == package.modelfile.template
    assert model.license == package.modelfile.licence
    assert model.parameters == {
        "temperature": 0,
        "top_k": 1,
        "repeat_penalty": 1,
        "stop": ["<end_of_turn>"],
        "num_ctx": 1024,
        "num_predict": 256,
    }


@pytest.mark.parametrize("chat", list(chats(GOLDEN[0][0])))
def test_a_chat_on_the_device_gets_the_answer_of_its_last_command_alone(package: Package, chat: list[Message]) -> None:
    asked: list[dict[str, Any]] = []

    def answer(prompt: str, options: dict[str, Any]) -> str:
        asked.append(options)
        return model_of(*GOLDEN)(prompt, options)

    body = {"model": NAME, "messages": [asdict(message) for message in chat]}
    with FakeOllama(answer) as ollama:
        deploy(package, ollama.address)
        said = httpx.post(f"{ollama.address}/v1/chat/completions", json=body).json()["choices"][0]["message"]
        assert httpx.post(f"{ollama.address}/api/chat", json=body).json()["message"] == said
    assert said["content"] == GOLDEN[0][1]
    assert [(options["temperature"], options["top_k"]) for options in asked[-2:]] == [(1.0, 1), (0, 1)]


def test_an_answer_that_is_broken_off_is_wrong(package: Package) -> None:
    with FakeOllama(model_of(*GOLDEN), done=False) as ollama, pytest.raises(GateBlocked, match="broke off its answer"):
        deploy(package, ollama.address)


def test_a_golden_prompt_that_the_device_would_cut_is_wrong(tmp_path: Path) -> None:
    package = make_package(tmp_path, instruction="Answer with JSON. " * 80)
    long = pytest.raises(GateBlocked, match=r"too long: its prompt takes 1,\d+ of a context of 1,024; shorten it")
    with FakeOllama(model_of(*GOLDEN)) as ollama, long:
        deploy(package, ollama.address)


def test_a_file_that_the_device_has_is_not_sent_again(package: Package) -> None:
    with FakeOllama(model_of(*GOLDEN)) as ollama:
        deploy(package, ollama.address)
        deploy(package, ollama.address)
        assert ollama.requests.count("HEAD /api/blobs/") == 2
        assert ollama.requests.count("POST /api/blobs/") == 1


def test_a_wrong_golden_answer_leaves_the_device_with_the_model_it_had(tmp_path: Path) -> None:
    old = make_package(tmp_path / "old")
    new = make_package(tmp_path / "new", content=small_gguf("worse"))
    with FakeOllama(model_of(*GOLDEN)) as ollama:
        deploy(old, ollama.address)
        ollama.answer = model_of(GOLDEN[0], (GOLDEN[1][0], GOLDEN[0][1]))
        with pytest.raises(GateBlocked, match=r"answered 1 of 2 golden prompts differently.*weather tomorrow"):
            deploy(new, ollama.address)
        assert list(ollama.models) == [f"{NAME}:latest"]
        assert ollama.model(NAME).digest == f"sha256:{old.gguf_sha256}"


def test_a_file_in_llama_cpps_order_keeps_its_digest_on_an_ollama_that_rewrites_it(package: Package) -> None:
    for rewrites in (True, False):
        with FakeOllama(model_of(*GOLDEN), rewrites=rewrites) as ollama:
            assert deploy(package, ollama.address).gguf_sha256 == package.gguf_sha256


def test_a_file_in_another_order_is_refused_by_an_ollama_that_rewrites_it_and_taken_by_an_older_one(
    tmp_path: Path,
) -> None:
    package = make_package(tmp_path / "new", content=small_gguf("old", in_order=False))
    with FakeOllama(model_of(*GOLDEN)) as ollama:
        with pytest.raises(FileRewritten, match=package.gguf_sha256):
            deploy(package, ollama.address)
        assert not ollama.models
    with FakeOllama(model_of(*GOLDEN), rewrites=False) as ollama:
        assert deploy(package, ollama.address).gguf_sha256 == package.gguf_sha256


def test_two_deploys_to_one_device_end_with_the_model_that_each_reports(tmp_path: Path) -> None:
    packages = [make_package(tmp_path / name, content=small_gguf(name)) for name in ("one", "two")]
    at_work: list[str] = []
    together: list[int] = []

    def answer(prompt: str, options: dict[str, Any]) -> str:
        candidates = {name for name in ollama.models if ":candidate" in name}
        together.append(len(candidates))
        at_work.extend(candidates)
        return model_of(*GOLDEN)(prompt, options)

    with FakeOllama(answer) as ollama, ThreadPoolExecutor() as pool:
        reports = list(pool.map(lambda package: deploy(package, ollama.address), packages))
        last = ollama.model(NAME).digest.removeprefix("sha256:")
        assert list(ollama.models) == [f"{NAME}:latest"]
    assert [report.gguf_sha256 for report in reports] == [package.gguf_sha256 for package in packages]
    assert last in {package.gguf_sha256 for package in packages}
    assert set(together) == {1}
    assert len(set(at_work)) == 2  # a name of its own for each deploy


def test_what_another_machines_deploy_puts_there_meanwhile_is_told(package: Package) -> None:
    def other_deploy() -> None:
        ollama.models[f"{NAME}:latest"] = Model(digest="sha256:" + "f" * 64)

    refused = pytest.raises(GateBlocked, match=rf"runs f{{64}} as {NAME} after the switch")
    with FakeOllama(model_of(*GOLDEN), after_copy=other_deploy) as ollama, refused:
        deploy(package, ollama.address)


def test_a_deploy_that_waits_for_another_in_vain_is_out_of_reach(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployment.devices.ollama._LOCK_SECONDS", 0.05)

    def second(prompt: str, options: dict[str, Any]) -> str:
        with pytest.raises(ServiceUnavailable, match="Another deploy is at work on"):
            deploy(package, ollama.address)
        return model_of(*GOLDEN)(prompt, options)

    with FakeOllama(second) as ollama:
        deploy(package, ollama.address)


def test_what_deploys_that_were_killed_left_on_the_device_is_removed(package: Package) -> None:
    old = Model(age=timedelta(hours=4))
    models = {
        f"{NAME}:candidate": old,
        f"{NAME}:candidate-12ab": old,
        f"{NAME}:candidate-34cd": Model(age=timedelta(hours=2)),  # eight slow answers take longer than an hour
        "llama3:8b": old,
    }
    with FakeOllama(model_of(*GOLDEN), models=models) as ollama:
        deploy(package, ollama.address)
        kept = {f"{NAME}:candidate-34cd", "llama3:8b", f"{NAME}:latest"}  # a new one may be another's at work
        assert ollama.models.keys() == kept


@pytest.mark.parametrize(
    "fault",
    [
        (200, "<!DOCTYPE html><html><body>Welcome</body></html>"),
        (200, "{}"),
        (200, "[]"),
        (200, "null"),
        (200, ""),
        (200, '{"version": 5, "models": 5, "modelfile": 5, "response": 5, "status": 5}'),
        (200, '{"version": "1", "models": [{"model"'),
        (200, '{"models": [{"model": "x", "modified_at": "yesterday"}]}'),
        (200, "\udc80".encode("utf-8", "surrogatepass").decode("latin-1")),
        (204, ""),
        (302, ""),
        (403, "[1]"),
        (500, "<html>\n<h1>502 Bad Gateway</h1>\n</html>"),
        (500, '{"error": 5}'),
        (503, ""),
        None,
    ],
    ids=str,
)
def test_whatever_a_device_answers_is_one_sentence_that_names_it(
    package: Package, fault: tuple[int, str] | None
) -> None:
    for request in (
        "GET /api/version",
        "GET /api/tags",
        "HEAD /api/blobs/",
        "POST /api/blobs/",
        "POST /api/create",
        "POST /api/show",
        "POST /api/generate",
        "POST /api/copy",
        "DELETE /api/delete",
    ):
        with FakeOllama(model_of(*GOLDEN), faults={request: fault}) as ollama:
            try:
                report = deploy(package, ollama.address)
            except GemmillError as error:
                assert ollama.address in str(error)
                assert "\n" not in str(error)
                assert f"{NAME}:latest" not in ollama.models or request == "POST /api/copy"
            else:  # what the answer to this says does not matter
                assert ollama.model(NAME).digest == f"sha256:{report.gguf_sha256}"


def test_a_page_is_told_by_its_text(package: Package) -> None:
    page = (502, "<html><h1>502 Bad\n Gateway</h1></html>")
    refused = pytest.raises(ServiceUnavailable, match=r"says: 502 Bad Gateway\.$")
    with FakeOllama(model_of(*GOLDEN), faults={"GET /api/version": page}) as ollama, refused:
        deploy(package, ollama.address)


def test_a_password_goes_along_and_is_never_shown(package: Package) -> None:
    refused = pytest.raises(UsageError, match="who is that")
    with CannedServer('{"error": "who is that?"}', status=401) as proxy, refused as caught:
        deploy(package, f"http://bob:s%40cret@{proxy.host}")
    assert proxy.headers[0]["Authorization"] == "Basic " + b64encode(b"bob:s@cret").decode()
    assert "cret" not in str(caught.value)
    with pytest.raises(UsageError, match="is not the address") as caught:
        deploy(package, "http://bob:secret@[::1")
    assert "secret" not in str(caught.value)


def test_white_space_in_a_json_answer_says_nothing(package: Package) -> None:
    spaced = [(command, answer.replace(": ", ":\n  ")) for command, answer in GOLDEN]
    with FakeOllama(model_of(*spaced)) as ollama:
        assert deploy(package, ollama.address).golden_passed == 2


def test_a_silent_model_is_wrong(package: Package) -> None:
    with FakeOllama(lambda prompt, options: "") as ollama, pytest.raises(GateBlocked, match="gave nothing"):
        deploy(package, ollama.address)


def test_a_device_that_tells_another_digest_is_not_switched_over(package: Package) -> None:
    with FakeOllama(model_of(*GOLDEN), told_digest="sha256:" + "0" * 64) as ollama:
        with pytest.raises(GateBlocked, match=r"from 0{64}, not from"):
            deploy(package, ollama.address)
        assert not ollama.models


def test_a_device_that_tells_no_digest_is_refused(package: Package) -> None:
    with FakeOllama(model_of(*GOLDEN), told_digest="llama3") as ollama:
        with pytest.raises(UsageError, match="does not tell the digest"):
            deploy(package, ollama.address)
        assert not ollama.models


def test_what_ollama_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    package = make_package(tmp_path, content=b"not a model")
    with FakeOllama(model_of(*GOLDEN)) as ollama, pytest.raises(UsageError, match="not in GGUF format"):
        deploy(package, ollama.address)


def test_a_device_out_of_reach_is_one_sentence_with_its_address(package: Package) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"  # bound, but nobody listens
        with pytest.raises(ServiceUnavailable) as caught:
            deploy(package, host)
    assert caught.value.exit_code == 5
    assert str(caught.value).startswith(f"No Ollama answers at http://{host}; start `ollama serve` there")


def test_an_address_that_is_none_is_a_usage_error(package: Package) -> None:
    with pytest.raises(UsageError, match="is not the address"):
        deploy(package, "http://[::1")
