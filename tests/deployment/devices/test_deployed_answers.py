"""A real GGUF packaged with its own answers, then asked as text through the Modelfile's template."""

import uuid
from dataclasses import asdict
from pathlib import Path

import httpx
import ollama
import pytest
from fake_ollama import FakeOllama
from live_ollama import live_ollama
from llama_ollama import answer_of
from small_package import CARD, LABELS, NAME

from deployment.answers.rules import default_rules
from deployment.devices.ollama import deploy_package
from deployment.packages.licence import apache_licence
from deployment.packages.package import Package, build_package, verify_package
from deployment.prompts.parity import chats
from deployment.prompts.prompt import Prompt
from deployment.runtimes.decoding import AnswerLimits

COMMANDS = ("Hydraulic leak at press SG-402", "What is the weather tomorrow?", "  Prüfe <Ölstand>\tjetzt ")
LIMITS = AnswerLimits(num_ctx=512, num_predict=24)


@pytest.fixture(params=["", "Answer with JSON only.\nNothing else."], ids=["plain", "instructed"])
def package(request: pytest.FixtureRequest, tmp_path: Path) -> Package:
    from tiny_gguf import tiny_gguf

    from deployment.runtimes.llama_server import LlamaServer

    prompt = Prompt(instruction=request.param)
    gguf = tiny_gguf(tmp_path, LABELS, prompt)
    with LlamaServer(gguf, prompt=prompt, max_new_tokens=LIMITS.num_predict, context=LIMITS.num_ctx) as server:
        answers = [prediction.text for prediction in server.answer(COMMANDS)]
    assert all(answer.strip() for answer in answers)
    build_package(
        tmp_path / "package",
        name=NAME,
        gguf=gguf,
        labels=LABELS,
        rules=default_rules(LABELS),
        prompt=prompt,
        golden=list(zip(COMMANDS, answers, strict=True)),
        card=CARD,
        licence=apache_licence(derived=False),
        limits=LIMITS,
    )
    return verify_package(tmp_path / "package")


@pytest.mark.slow
def test_text_through_the_template_gives_the_answers_of_the_token_ids(package: Package, tmp_path: Path) -> None:
    from deployment.runtimes.llama_server import LlamaServer

    with (
        LlamaServer(package.gguf, prompt=Prompt(), context=LIMITS.num_ctx) as server,
        FakeOllama(answer_of(server)) as fake,
    ):
        report = deploy_package(package, name=NAME, locks=tmp_path / "locks", host=fake.address)
        for item in package.golden:
            for chat in chats(item.command):
                body = {"model": NAME, "messages": [asdict(message) for message in chat]}
                reply = httpx.post(f"{fake.address}/v1/chat/completions", json=body, timeout=60).json()
                assert reply["choices"][0]["message"]["content"] == item.answer
    assert report.golden_passed == report.golden_total == len(COMMANDS)


@pytest.mark.live
def test_a_real_ollama_gives_the_golden_answers(package: Package, tmp_path: Path) -> None:
    host = live_ollama()
    name = f"gemmill-test-{uuid.uuid4().hex[:8]}"
    try:
        report = deploy_package(package, name=name, locks=tmp_path / "locks", host=host)
        assert report.gguf_sha256 == package.gguf_sha256
        assert report.golden_passed == report.golden_total == len(COMMANDS)
    finally:
        ollama.Client(host=host).delete(name)
