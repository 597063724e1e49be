"""What is told of a device that is lost once it has switched over."""

from pathlib import Path

import pytest
from fake_ollama import FakeOllama
from small_package import GOLDEN, NAME, make_package

from deployment.devices.ollama import deploy_package
from deployment.prompts.prompt import Prompt
from registry.errors import ServiceUnavailable

_ANSWERS = {Prompt().render(command): answer for command, answer in GOLDEN}


def test_a_device_lost_after_the_switch_is_told_as_switched_over(tmp_path: Path) -> None:
    package = make_package(tmp_path / "new")
    with FakeOllama(lambda prompt, options: _ANSWERS.get(prompt, "?")) as ollama:
        ollama.after_copy = lambda: ollama.faults.update({"POST /api/show": None})
        with pytest.raises(ServiceUnavailable, match=r"was switched over, but its digest could not be read: .*finish"):
            deploy_package(package, name=NAME, locks=tmp_path / "locks", host=ollama.address)
        assert ollama.model(NAME).digest == f"sha256:{package.gguf_sha256}"


def test_values_in_another_form_are_the_golden_answer(tmp_path: Path) -> None:
    package = make_package(tmp_path / "new")

    def in_lists(prompt: str, options: dict) -> str:
        return _ANSWERS[prompt].replace('"SG-402"', '["SG-402"]')

    with FakeOllama(in_lists) as ollama:
        report = deploy_package(package, name=NAME, locks=tmp_path / "locks", host=ollama.address)
    assert report.golden_passed == 2
