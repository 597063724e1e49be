"""Scores of an answer from its tokens, and what the rules make of them."""

import math
from pathlib import Path

import pytest
from fake_ollama import FakeOllama, Model, Said
from hypothesis import given
from hypothesis import strategies as st
from learnt_model import DOUBT, doubting

import gemmill
from deployment.answers.doubt import scores_of
from deployment.answers.policy import Grounded, decoding_of
from deployment.answers.rules import default_rules
from deployment.packages.found import find_model
from deployment.runtimes.decoding import Mode
from deployment.runtimes.llama_server import LlamaServer
from deployment.runtimes.logprobs import LIKELIEST, TokenLogprobs, token_logprobs
from registry.records import LabelSet, Record

__all__ = ["doubting"]


def told(*tokens: tuple[str, float] | tuple[str, float, dict[str, float]]) -> tuple[TokenLogprobs, ...]:
    """Tokens with their probabilities and those of others in their place."""
    found = []
    for text, share, *others in tokens:
        likeliest = {text: share, **(others[0] if others else {})}
        spelled = tuple((other.encode(), math.log(chance)) for other, chance in likeliest.items())
        found.append(TokenLogprobs(text.encode(), math.log(share), spelled))
    return tuple(found)


def odds(share: float) -> float:
    return math.log(share / (1 - share))


IN_SCOPE = told(
    ('{"', 1.0),
    ('intent": "', 1.0),
    ("re", 0.7, {"out": 0.2, "ch": 0.1}),
    ("port", 1.0),
    ('", "', 1.0),
    ('entities": {"asset": ["', 0.9),
    ("P-1", 0.5),
    ('", "', 0.8),
    ('P-2"], "', 0.9),
    ("place", 1.0),
    ('": "', 1.0),
    ("hall", 0.6),
    ('"}}', 0.5),
    ("", 1.0),
)


def test_each_token_counts_for_the_part_in_which_it_begins() -> None:
    scores = scores_of(IN_SCOPE)
    assert scores is not None
    assert scores.out_of_scope == pytest.approx(odds(0.2))
    assert scores.intent == pytest.approx(odds(0.7))
    assert [(field.type, field.value) for field in scores.fields] == [
        ("asset", "P-1"), ("asset", "P-2"), ("place", "hall"),
    ]  # fmt: skip
    shares = (0.9 * 0.5 * 0.8, 0.9, 0.6 * 0.5)
    assert [field.score for field in scores.fields] == pytest.approx([odds(share) for share in shares])
    assert scores.answer == pytest.approx(odds(0.7 * math.prod(shares)))


@pytest.mark.parametrize(
    ("tokens", "share"),
    [
        (told(('{"intent":"', 1.0), ("out", 0.8), ("_of_scope", 0.9), ('","entities":{}}', 1.0)), 0.72),
        (told(('{"intent":"', 1.0), ("out", 0.5), ("_order", 0.6, {"_of": 0.3}), ('","entities":{}}', 1.0)), 0.15),
        (told(('{"intent":"', 1.0), ("o", 0.5), ("rder", 0.6, {"": 0.1, "u": 0.25}), ('","entities":{}}', 1.0)), 0.125),
        (told(('{"intent":', 1.0), ('"re', 0.6, {'"': 0.1, '"o': 0.2, '"out': 0.1}), ('","entities":{}}', 1.0)), 0.3),
        (told(('{"intent": "', 1.0), ('check", "entities": {}}', 0.9, {'out_of_scope", ': 0.1})), 0.1),
    ],
    ids=["said", "parts late", "parts within a token", "in several tokens", "in one token"],
)
def test_out_of_scope_has_a_score_whatever_was_said(tokens: tuple[TokenLogprobs, ...], share: float) -> None:
    scores = scores_of(tokens)
    assert scores is not None
    assert scores.out_of_scope == pytest.approx(odds(share))


def test_what_is_not_among_the_likeliest_is_as_good_as_impossible() -> None:
    scores = scores_of(told(('{"intent":"', 1.0), ("check", 0.9, {"re": 0.1}), ('","entities":{}}', 1.0)))
    assert scores is not None
    assert scores.out_of_scope == pytest.approx(-30)


@pytest.mark.parametrize(
    "tokens",
    [(), told(("no JSON", 1.0)), told(('{"entities": {"a": "b"}, "intent": "check"}', 1.0)), told(('{"intent', 1.0))],
    ids=["nothing", "no JSON", "another order", "broken off"],
)
def test_tokens_of_no_answer_tell_nothing(tokens: tuple[TokenLogprobs, ...]) -> None:
    assert scores_of(tokens) is None
    assert DOUBT.confidence(tokens, "check") is None
    assert not DOUBT.rejects(tokens)


@given(st.lists(st.tuples(st.binary(max_size=12), st.floats(max_value=0.0, allow_nan=False))))
def test_any_tokens_have_finite_scores_or_none(tokens: list[tuple[bytes, float]]) -> None:
    opening = TokenLogprobs(b'{"intent": "', 0.0, ())
    scores = scores_of([opening, *(TokenLogprobs(text, logprob, ()) for text, logprob in tokens)])
    if scores:
        assert all(map(math.isfinite, (scores.out_of_scope, scores.intent, scores.answer)))
        assert all(math.isfinite(field.score) for field in scores.fields)


@pytest.mark.parametrize("said", [None, [], [{}], [{"token": "a"}], ["a"], [{"token": "a", "logprob": None}], 3])
def test_a_server_may_tell_anything_of_tokens(said: object) -> None:
    assert token_logprobs(said) == ()  # type: ignore[arg-type]


def test_a_command_that_is_likely_out_of_scope_is_answered_so() -> None:
    labels = LabelSet(name="plant", intents={"report": ""}, entities={"asset": "", "place": ""}, many=("asset",))
    rules = default_rules(labels).model_copy(update={"doubt": DOUBT})
    text = b"".join(token.text for token in IN_SCOPE).decode()
    command = "P-1 and P-2 in the hall"
    grounded = decoding_of(Mode.GROUNDED, labels, rules)
    assert grounded.logprobs == LIKELIEST
    assert grounded.finished(command, text, IN_SCOPE) == text  # odds of 0.2 are -1.4
    eager = rules.model_copy(update={"doubt": DOUBT.model_copy(update={"out_of_scope_from": -1.5})})
    rejecting = Grounded(labels=labels, rules=eager)
    assert rejecting.finished(command, text, IN_SCOPE) == '{"intent": "out_of_scope", "entities": {}}'
    assert rejecting.finished(command, text) == text
    assert decoding_of(Mode.SCHEMA, labels, eager).finished(command, text, IN_SCOPE) == text


def test_a_real_file_is_sure_of_what_it_learnt_and_not_of_the_rest(doubting: Path, plant_records: list[Record]) -> None:
    with gemmill.AuditAssistant(doubting, threads=1) as assistant:
        known = assistant.answer_many([record.command for record in plant_records])
        strange = assistant.answer("x1 zz prüfe SG oil 99 tomorrow pumps leak")
        streamed = list(assistant.stream(plant_records[0].command))[-1]
    for answer, record in zip(known, plant_records, strict=True):
        assert answer.confidence is not None and answer.response is not None
        if answer.response.entity_values() != record.response.entity_values():
            assert answer.ask_person, "the list that these labels do not allow"
            continue
        assert answer.confidence > 0.5, answer
        assert answer.intent_confidence is not None and answer.intent_confidence >= answer.confidence
        assert all(span.confidence is not None and span.confidence > 0.8 for span in answer.spans)
        assert not answer.ask_person
    assert strange.confidence is not None and strange.confidence < 0.5
    assert strange.ask_person
    assert streamed.model_copy(update={"seconds": known[0].seconds}) == known[0]


def test_confidence_can_be_left_out(doubting: Path, plant_records: list[Record]) -> None:
    with gemmill.AuditAssistant(doubting, threads=1, confidence=False) as assistant:
        answer = assistant.answer(plant_records[0].command)
    assert answer.intent == plant_records[0].response.intent
    assert (answer.confidence, answer.intent_confidence, answer.ask_person) == (None, None, False)
    with gemmill.AuditAssistant(doubting, threads=1, decoding="free") as assistant:
        assert assistant.answer(plant_records[0].command).confidence is None


def test_the_tokens_that_a_server_tells_are_the_answer_s(doubting: Path, plant_records: list[Record]) -> None:
    found = find_model(str(doubting), labels=None)
    decoding = found.decoding(Mode.GROUNDED)
    with LlamaServer(Path(found.spec), prompt=found.prompt, slots=1, decoding=decoding) as server:
        predictions = server.answer([record.command for record in plant_records])
    for prediction in predictions:
        assert b"".join(token.text for token in prediction.logprobs).decode() == prediction.text
        assert all(len(token.likeliest) == LIKELIEST for token in prediction.logprobs)


def test_the_bytes_of_a_token_that_is_no_character_count(doubting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '{"intent": "check_asset", "entities": {"fluid": "Öl"}}'
    before, after = text.encode().split("Ö".encode())
    told = [
        {"token": part.decode(errors="replace"), "logprob": -0.1, "bytes": list(part), "top_logprobs": []}
        for part in (before, b"\xc3", b"\x96", after)
    ]
    said = Said(text, told)
    with FakeOllama(lambda prompt, options: said, models={"m:latest": Model()}) as ollama:
        monkeypatch.setenv("OLLAMA_HOST", ollama.address)
        with gemmill.AuditAssistant("ollama:m", labels=doubting.parent / "labels.toml") as assistant:
            answer = assistant.answer("Öl")
    [span] = answer.spans
    assert (span.value, span.confidence) == ("Öl", pytest.approx(math.exp(-0.3)))
    assert answer.confidence == pytest.approx(math.exp(-0.4))


def test_ollama_is_asked_for_its_tokens_where_the_rules_beside_the_labels_say_what_they_mean(
    doubting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = '{"intent": "check_asset", "entities": {}}'
    with FakeOllama(lambda prompt, options: text, models={"m:latest": Model()}) as ollama:
        monkeypatch.setenv("OLLAMA_HOST", ollama.address)
        with gemmill.AuditAssistant("ollama:m", labels=doubting.parent / "labels.toml") as assistant:
            answer = assistant.answer("P-1")
            *_, streamed = assistant.stream("P-1")
    assert [(asked["logprobs"], asked["top_logprobs"]) for asked in ollama.bodies] == [(True, LIKELIEST)] * 2
    assert answer.intent == "check_asset"
    assert answer.confidence == pytest.approx(math.exp(-0.01 * len(text)))
    assert streamed.confidence == answer.confidence
