import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gbnf import Grammar
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from wild_commands import HOSTILE, commands

from deployment.answers.grammar import grounded_grammar
from deployment.answers.policy import Grounded
from deployment.answers.rules import AnswerRules, TypeRules
from deployment.answers.spans import Form, span_of, spans
from deployment.prompts.prompt import Prompt
from deployment.runtimes.decoding import sampling
from deployment.runtimes.llama_server import LlamaServer
from deployment.runtimes.logprobs import TokenLogprobs
from registry.records import MAX_COMMAND, MAX_VALUE, LabelSet, Record, Response, answer_text, parse_answer


@dataclass(frozen=True, kw_only=True)
class AnyAnswer(Grounded):
    """One of the answers that the grammar of ``told`` allows, drawn by chance, as it comes.

    ``told`` may be longer than what the model has room for. ``banned`` are the tokens of the bytes F8 to FF: they are
    in no text, and llama.cpp takes them for F0 to F7.
    """

    told: str
    banned: tuple[int, ...]
    seed: int

    def llama_cpp(self, command: str) -> Mapping[str, Any]:
        banned = [[token, False] for token in self.banned]
        return {**super().llama_cpp(self.told), "logit_bias": banned, **sampling(1.5), "seed": self.seed}

    def finished(self, command: str, text: str, logprobs: Sequence[TokenLogprobs] = ()) -> str:
        return text


class Asked:
    """A model that has learnt nothing, so that it writes whatever it may."""

    def __init__(self, server: LlamaServer, gguf: Path, labels: LabelSet, rules: AnswerRules) -> None:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent / "model")
        self._server, self.labels, self.rules = server, labels, rules
        self._banned = tuple(tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in range(0xF8, 0x100)]))

    def answer(self, command: str, *, seed: int) -> str:
        decoding = AnyAnswer(labels=self.labels, rules=self.rules, told=command, banned=self._banned, seed=seed)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(self._server, "_decoding", decoding)
            [prediction] = self._server.answer(["what is it?"])
        assert not prediction.failure
        return prediction.text

    def require_grounded(self, text: str, command: str) -> None:
        """An answer of the label set, in its order and its forms, with values that are spans of the command."""
        response = parse_answer(text)
        assert response is not None, text
        assert self.labels.problems(response) == []
        assert list(response.entities) == [name for name in self.labels.entities if name in response.entities]
        for name, value in response.entities.items():
            assert isinstance(value, list) == (name in self.labels.many)
            known, values = self.rules.types[name], [value] if isinstance(value, str) else value
            assert len(values) <= known.most
            for item in values:
                if known.form is None:
                    # what llama.cpp takes for one character, such as half a surrogate pair, can be several marks of
                    # broken text here
                    assert len(item.replace("\ufffd", "")) <= known.longest
                else:
                    longest = max(rule.longest for rule in self.rules.types.values() if rule.form == known.form)
                    assert len(item) <= min(2 * longest, MAX_VALUE)
                    assert span_of(item, known.form.of(command)) is not None, (name, item)


@pytest.fixture(scope="module")
def asked(gguf: Path, plant: LabelSet, rules: AnswerRules) -> Iterator[Asked]:
    with LlamaServer(gguf, prompt=Prompt(), slots=1, context=2048) as server:
        yield Asked(server, gguf, plant, rules)


@pytest.mark.parametrize("command", HOSTILE, ids=lambda command: f"{len(command)} {command[:9]!a}")
def test_llama_cpp_answers_any_command_with_its_spans(asked: Asked, command: str) -> None:
    for seed in range(2):
        asked.require_grounded(asked.answer(command, seed=seed), command)


@settings(max_examples=30)
@given(command=commands(), seed=st.integers(0, 1000))
def test_llama_cpp_answers_wild_commands_with_their_spans(asked: Asked, command: str, seed: int) -> None:
    asked.require_grounded(asked.answer(command, seed=seed), command)


def test_llama_cpp_writes_every_kind_of_answer_that_the_grammar_allows(asked: Asked) -> None:
    command = "press P-1 leaks"
    texts = [asked.answer(command, seed=seed) for seed in range(40)]
    found = [response for text in texts if (response := parse_answer(text))]
    assert {response.intent for response in found} == set(asked.labels.intents)
    assert {name for response in found for name in response.entities} == set(asked.labels.entities)
    accepts = Grammar(grounded_grammar(command, asked.labels, asked.rules)).accepts
    assert all(map(accepts, texts))


def answer_of(labels: LabelSet, **entities: str | list[str]) -> str:
    return answer_text(Response(intent="check", entities=entities), labels)


def small(form: Form | None, *, longest: int = 20, many: bool = False) -> tuple[LabelSet, AnswerRules]:
    """One entity type, ``asset``, of up to two values."""
    labels = LabelSet(name="small", intents={"check": ""}, entities={"asset": ""}, many=("asset",) if many else ())
    held = TypeRules(form=form, grounded=1.0, longest=longest, most=2)
    return labels, AnswerRules(types={"asset": held})


@given(commands(longest=24), st.sampled_from(Form))
def test_a_string_is_a_value_where_it_is_a_span_and_only_there(command: str, form: Form) -> None:
    labels, rules = small(form)
    accepts = Grammar(grounded_grammar(command, labels, rules)).accepts
    text = form.of(command)
    found = set(spans(text, most_words=99, longest=20))
    parts = {text[start:end] for start in range(len(text)) for end in range(start + 1, min(start + 20, len(text)) + 1)}
    for part in parts | found:
        if part.strip():
            assert accepts(answer_of(labels, asset=part)) == (part in found), part


def test_the_right_answers_of_the_sample_are_accepted(
    sample: dict[str, list[Record]], sample_rules: AnswerRules, labels: LabelSet
) -> None:
    for record in sample["test"]:
        accepts = Grammar(grounded_grammar(record.command, labels, sample_rules)).accepts
        assert accepts(answer_text(record.response, labels)), record
        assert accepts(answer_text(record.response, labels, compact=True)), record


def test_other_answers_than_the_label_set_and_the_rules_allow_are_not_accepted(
    plant: LabelSet, rules: AnswerRules
) -> None:
    accepts = Grammar(grounded_grammar("press P-1 leaks oil", plant, rules)).accepts
    assert accepts('{"intent": "report_leak", "entities": {"asset": ["P-1", "press"], "kind": "OIL"}}')
    for text in (
        '{"intent": "other", "entities": {}}',
        '{"intent": "out_of_scope", "entities": {"asset": ["P-1"]}}',
        '{"intent": "report_leak", "entities": {"asset": "P-1"}}',
        '{"intent": "report_leak", "entities": {"asset": []}}',
        '{"intent": "report_leak", "entities": {"asset": ["P-1", "P-1", "P-1"]}}',
        '{"intent": "report_leak", "entities": {"asset": ["P-1"], "asset": ["P-1"]}}',
        '{"intent": "report_leak", "entities": {"kind": "OIL", "asset": ["P-1"]}}',
        '{"intent": "report_leak", "entities": {"kind": ["OIL"]}}',
        '{"intent": "report_leak", "entities": {"kind": "oil"}}',
        '{"intent": "report_leak", "entities": {"part": "oil"}}',
        '{"intent": "report_leak", "entities": {}} ',
        '{"intent":  "report_leak", "entities": {}}',
        '{"intent": "report_leak"}',
    ):
        assert not accepts(text), text


def test_a_command_without_a_span_is_answered_without_a_grounded_type() -> None:
    labels, rules = small(Form.EXACT)
    for command in ("", " \n ", "x" * 500):
        accepts = Grammar(grounded_grammar(command, labels, rules)).accepts
        assert accepts('{"intent": "check", "entities": {}}')
        assert not accepts(answer_of(labels, asset="x"))


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))
def test_a_free_value_is_any_text_that_begins_with_no_blank(value: str) -> None:
    labels, rules = small(None, longest=10)
    accepts = Grammar(grounded_grammar("pump", labels, rules)).accepts
    begins_well = not value[0].isspace() and value[0] >= " "
    text = json.dumps({"intent": "check", "entities": {"asset": value}}, ensure_ascii=False)
    assert accepts(text) == (len(value) <= 10 and begins_well)


@pytest.mark.parametrize("value", ["", " ", "\\ud800", "\\u00e4", "\\/", "\\n", "a\\x41", 'a"', "\u3000"])
def test_a_free_value_is_never_blank_and_no_broken_text(value: str) -> None:
    labels, rules = small(None)
    accepts = Grammar(grounded_grammar("pump", labels, rules)).accepts
    assert not accepts(f'{{"intent": "check", "entities": {{"asset": "{value}"}}}}')


def test_a_grounded_value_has_at_most_the_characters_of_a_record() -> None:
    labels, rules = small(Form.EXACT, longest=MAX_VALUE)
    command = " ".join("abcd" for _ in range(MAX_COMMAND // 5))
    accepts = Grammar(grounded_grammar(command, labels, rules)).accepts
    assert accepts(answer_of(labels, asset=command[: MAX_VALUE - 1]))
    longer = json.dumps({"intent": "check", "entities": {"asset": command[: MAX_VALUE + 4]}})
    assert not accepts(longer)


@pytest.mark.parametrize("command", [command for command in HOSTILE if len(command) > 400], ids=lambda text: text[:9])
def test_a_grammar_of_twice_the_command_is_twice_as_long(
    command: str, labels: LabelSet, sample_rules: AnswerRules
) -> None:
    half, whole = (grounded_grammar(text, labels, sample_rules) for text in (command[: len(command) // 2], command))
    assert len(whole) <= 2.2 * len(half)
