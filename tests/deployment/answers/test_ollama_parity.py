"""One package asked through llama.cpp, which takes a grammar, and through Ollama, which takes a schema: one answer."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import ollama
import pytest
from fake_ollama import FakeOllama
from gbnf import Grammar
from hypothesis import Phase, given, settings
from learnt_model import DOUBT, PROMPT
from live_ollama import live_ollama
from llama_ollama import answer_of
from small_package import CARD
from wild_commands import HOSTILE, commands

import gemmill
from deployment.answers.answer import Answer
from deployment.answers.grammar import grounded_grammar
from deployment.answers.rules import AnswerRules, TypeRules, learn_rules
from deployment.answers.schema import MOST_WORDS, grounded_schema
from deployment.answers.spans import Form
from deployment.devices.ollama import deploy_package
from deployment.packages.licence import apache_licence
from deployment.packages.package import Package, build_package, verify_package
from deployment.runtimes.decoding import AnswerLimits
from deployment.runtimes.llama_server import LlamaServer
from registry.records import LabelSet, Record, answer_text

LIMITS = AnswerLimits(num_ctx=2048, num_predict=128)
LONG = " ".join(f"{number}x leaks" for number in range(90))
SHORT = [command for command in HOSTILE if len(command.encode()) < 1000]


@dataclass
class BothWays:
    """A package opened by gemmill, and behind an Ollama."""

    package: Package
    here: gemmill.AuditAssistant
    there: gemmill.AuditAssistant
    said: list[str]  # by the Ollama

    def ask(self, command: str) -> tuple[Answer, Answer]:
        return self.here.answer(command), self.there.answer(command)

    def require_equal(self, command: str) -> bool:
        """The same answer, intent and entities, and as sure of it, but where one way has no room for the other's text.

        That is a value of too many words for the schema, or one of the blanks and escapes that llama.cpp lets stand
        in any JSON. Whether the answers are equal.
        """
        here, there = self.ask(command)
        assert here.response is not None, here.failure
        labels, rules = self.package.labels, self.package.rules
        schema = jsonschema.Draft202012Validator(grounded_schema(command, labels, rules))
        has_room = schema.is_valid(json.loads(answer_text(here.response, labels)))
        words = max((len(value.split()) for _, value in here.response.listed()), default=0)
        assert has_room or words > (there.longest or MOST_WORDS) or there.longest == 1, here
        if has_room and Grammar(grounded_grammar(command, labels, rules)).accepts(self.said[-1].rstrip()):
            assert there.response == here.response, (command, there.failure)
            assert there.confidence == pytest.approx(here.confidence, rel=1e-3, abs=1e-9)
            assert there.intent_confidence == pytest.approx(here.intent_confidence, rel=1e-3, abs=1e-9)
        return there.response == here.response


def packaged(folder: Path, gguf: Path, labels: LabelSet, rules: AnswerRules, records: list[Record]) -> Package:
    with LlamaServer(gguf, prompt=PROMPT, slots=1, max_new_tokens=LIMITS.num_predict) as server:
        golden = [(record.command, server.answer([record.command])[0].text) for record in records]
    build_package(
        folder,
        name="plant",
        gguf=gguf,
        labels=labels,
        rules=rules.model_copy(update={"doubt": DOUBT}),
        prompt=PROMPT,
        golden=golden,
        card=CARD,
        licence=apache_licence(derived=False),
        limits=LIMITS,
    )
    return verify_package(folder)


@pytest.fixture(scope="module", params=["as learnt", "lists, in capitals and small letters"])
def package(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    learnt_gguf: Path,
    plant_labels: LabelSet,
    plant_records: list[Record],
) -> Package:
    labels, rules = plant_labels, learn_rules(plant_records, plant_labels)
    if request.param != "as learnt":
        labels = labels.model_copy(update={"many": ("asset",)})
        forms = {"asset": Form.UPPER, "fluid": Form.LOWER}
        rules = AnswerRules(
            types={name: TypeRules(form=form, grounded=1.0, longest=40, most=3) for name, form in forms.items()}
        )
    return packaged(tmp_path_factory.mktemp("both") / "package", learnt_gguf, labels, rules, plant_records)


@pytest.fixture(scope="module")
def both_ways(package: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BothWays]:
    with (
        LlamaServer(package.gguf, prompt=PROMPT, slots=1, context=LIMITS.num_ctx) as server,
        FakeOllama(answer_of(server)) as fake,
        opened(package, fake.address, "plant", tmp_path_factory.mktemp("locks")) as (here, there),
    ):
        yield BothWays(package, here, there, fake.said)


@contextmanager
def opened(
    package: Package, host: str, name: str, locks: Path
) -> Iterator[tuple[gemmill.AuditAssistant, gemmill.AuditAssistant]]:
    """The package itself, and as the model ``name`` on the Ollama at ``host``, which is made of it."""
    deploy_package(package, name=name, locks=locks, host=host)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLLAMA_HOST", host)
        with (
            gemmill.AuditAssistant(package.path, threads=1) as here,
            gemmill.AuditAssistant(f"ollama:{name}", labels=package.path / "labels.toml") as there,
        ):
            yield here, there


def test_the_records_are_answered_alike(both_ways: BothWays, plant_records: list[Record]) -> None:
    for record in plant_records:
        assert both_ways.require_equal(record.command), record
        here, there = both_ways.ask(record.command)
        assert here.confidence is not None and here.confidence == pytest.approx(there.confidence, rel=1e-3)
        *_, streamed = both_ways.there.stream(record.command)
        assert (streamed.response, streamed.confidence) == (there.response, there.confidence)


@pytest.mark.parametrize("command", SHORT, ids=lambda command: f"{len(command)} {command[:9]!a}")
def test_hostile_commands_are_answered_alike(both_ways: BothWays, command: str) -> None:
    both_ways.require_equal(command)


def test_wild_commands_are_answered_alike(both_ways: BothWays) -> None:
    asked: list[str] = []

    @settings(max_examples=30, derandomize=True, database=None, phases=[Phase.generate])
    @given(commands())
    def ask(command: str) -> None:
        asked.append(command)

    ask()
    equal = [both_ways.require_equal(command) for command in dict.fromkeys(asked)]
    assert sum(equal) > 0.9 * len(equal)


def test_a_long_command_is_answered_with_shorter_values_and_says_so(both_ways: BothWays) -> None:
    both_ways.require_equal(LONG)
    here, there = both_ways.ask(LONG)
    assert here.longest is None
    assert there.longest is not None
    assert there.longest < MOST_WORDS


@pytest.mark.live
def test_a_real_ollama_answers_as_llama_cpp_does(package: Package, plant_records: list[Record], tmp_path: Path) -> None:
    host = live_ollama()
    name = f"gemmill-test-{uuid.uuid4().hex[:8]}"
    try:
        with opened(package, host, name, tmp_path / "locks") as (here, there):
            for command in [record.command for record in plant_records]:
                expected, found = here.answer(command), there.answer(command)
                assert (found.response, found.failure) == (expected.response, "")
                assert found.confidence == pytest.approx(expected.confidence, rel=0.05)
    finally:
        ollama.Client(host=host).delete(name)
