import socket
from pathlib import Path
from typing import Any

import pytest
from fake_ollama import FakeOllama
from small_package import GOLDEN, NAME, make_package

from deployment.ollama_client import deploy_package
from deployment.package import Package
from deployment.prompt import Prompt
from registry.errors import GateBlocked, ServiceUnavailable, UsageError


def model_of(*golden: tuple[str, str], instruction: str = ""):
    """A language model that knows the prompts as they are rendered in training, and nothing else."""
    answers = {Prompt(instruction=instruction).render(command): answer for command, answer in golden}

    def answer(prompt: str, options: dict[str, Any]) -> str:
        return answers.get(prompt, "?")

    return answer


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return make_package(tmp_path)


def test_a_device_is_switched_over_after_its_golden_answers(package: Package) -> None:
    with FakeOllama(model_of(*GOLDEN)) as ollama:
        report = deploy_package(package, name=NAME, host=ollama.address)
        assert report.device == ollama.address
        assert report.gguf_sha256 == package.gguf_sha256
        assert (report.golden_passed, report.golden_total) == (2, 2)
        assert report.tokens_per_second == pytest.approx(100)
        assert list(ollama.models) == [f"{NAME}:latest"]


def test_the_device_gets_the_modelfile_of_the_package(tmp_path: Path) -> None:
    package = make_package(tmp_path, instruction="Answer with JSON.")
    with FakeOllama(model_of(*GOLDEN, instruction="Answer with JSON.")) as ollama:
        deploy_package(package, name=NAME, host=ollama.address)
        model = ollama.model(NAME)
    assert model.template == package.modelfile.template
    assert model.system == "Answer with JSON."
    assert model.license == package.modelfile.licence
    assert model.parameters == {
        "temperature": 0,
        "repeat_penalty": 1,
        "stop": ["<end_of_turn>"],
        "num_ctx": 1024,
        "num_predict": 256,
    }


def test_a_file_that_the_device_has_is_not_sent_again(package: Package) -> None:
    with FakeOllama(model_of(*GOLDEN)) as ollama:
        deploy_package(package, name=NAME, host=ollama.address)
        deploy_package(package, name=NAME, host=ollama.address)
        assert ollama.requests.count("HEAD /api/blobs/") == 2
        assert ollama.requests.count("POST /api/blobs/") == 1


def test_a_wrong_golden_answer_leaves_the_device_with_the_model_it_had(tmp_path: Path) -> None:
    old = make_package(tmp_path / "old")
    new = make_package(tmp_path / "new", content=b"GGUF worse")
    with FakeOllama(model_of(*GOLDEN)) as ollama:
        deploy_package(old, name=NAME, host=ollama.address)
        ollama.answer = model_of(GOLDEN[0], (GOLDEN[1][0], GOLDEN[0][1]))
        with pytest.raises(GateBlocked, match=r"answered 1 of 2 golden prompts differently.*weather tomorrow"):
            deploy_package(new, name=NAME, host=ollama.address)
        assert list(ollama.models) == [f"{NAME}:latest"]
        assert ollama.model(NAME).digest == f"sha256:{old.gguf_sha256}"


def test_white_space_in_a_json_answer_says_nothing(package: Package) -> None:
    spaced = [(command, answer.replace(": ", ":\n  ")) for command, answer in GOLDEN]
    with FakeOllama(model_of(*spaced)) as ollama:
        assert deploy_package(package, name=NAME, host=ollama.address).golden_passed == 2


def test_a_silent_model_is_wrong(package: Package) -> None:
    with FakeOllama(lambda prompt, options: "") as ollama, pytest.raises(GateBlocked, match="gave nothing"):
        deploy_package(package, name=NAME, host=ollama.address)


def test_a_device_that_tells_another_digest_is_not_switched_over(package: Package) -> None:
    with FakeOllama(model_of(*GOLDEN), told_digest="sha256:" + "0" * 64) as ollama:
        with pytest.raises(GateBlocked, match=r"from 0{64}, not from"):
            deploy_package(package, name=NAME, host=ollama.address)
        assert not ollama.models


def test_a_device_that_tells_no_digest_is_refused(package: Package) -> None:
    with FakeOllama(model_of(*GOLDEN), told_digest="llama3") as ollama:
        with pytest.raises(UsageError, match="does not tell the digest"):
            deploy_package(package, name=NAME, host=ollama.address)
        assert not ollama.models


def test_what_ollama_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    package = make_package(tmp_path, content=b"not a model")
    with FakeOllama(model_of(*GOLDEN)) as ollama, pytest.raises(UsageError, match="not in GGUF format"):
        deploy_package(package, name=NAME, host=ollama.address)


def test_a_device_out_of_reach_is_one_sentence_with_its_address(package: Package) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"  # bound, but nobody listens
        with pytest.raises(ServiceUnavailable) as caught:
            deploy_package(package, name=NAME, host=host)
    assert caught.value.exit_code == 5
    assert str(caught.value).startswith(f"No Ollama answers at http://{host}; start `ollama serve` there")


def test_an_address_that_is_none_is_a_usage_error(package: Package) -> None:
    with pytest.raises(UsageError, match="is not the address"):
        deploy_package(package, name=NAME, host="http://[::1")
