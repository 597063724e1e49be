import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployment.runtimes.prediction import Prediction
from registry.errors import UsageError
from registry.records import LabelSet, Record, Response, answer_text
from tasks.evaluation.metrics import METRIC_TITLES, Metrics, confusion, score, wilson_interval

LABELS = LabelSet(
    name="plant",
    intents={"report_leak": "", "check_asset": "", "out_of_scope": ""},
    entities={"asset": "", "fluid": ""},
)


def record(intent: str, **entities: str | list[str]) -> Record:
    return Record(command="c", response=Response(intent=intent, entities=entities))


def said(text: str, *, tokens: int = 1, seconds: float = 0.5) -> Prediction:
    return Prediction(text=text, tokens=tokens, seconds=seconds)


def answer(intent: str, **entities: str | list[str]) -> Prediction:
    return said(json.dumps({"intent": intent, "entities": entities}))


def test_metrics_equal_a_hand_count():
    records = [
        record("report_leak", asset="SG-402", fluid="oil"),  # right
        record("report_leak", asset="SG-402"),  # one value wrong: 1 false, 1 missed
        record("check_asset", asset=["P-1", "P-2"]),  # intent wrong, one of two values
        record("out_of_scope"),  # right
        record("out_of_scope"),  # answered with an intent
        record("check_asset", asset="P-3"),  # refused as out of scope
        record("check_asset", asset="P-4"),  # not JSON
        record("report_leak"),  # unknown intent: valid, wrong
    ]
    predictions = [
        answer("report_leak", fluid="oil", asset=["SG-402"]),
        answer("report_leak", asset="SG-420"),
        answer("report_leak", asset="P-2"),
        answer("out_of_scope"),
        answer("check_asset", asset="P-9"),
        answer("out_of_scope"),
        said('{"intent": "check_asset", "entities": {"asset": "P-4"}'),
        answer("make_coffee"),
    ]
    metrics = score(records, predictions, LABELS)
    # Pairs: wanted 2 + 1 + 2 + 0 + 0 + 1 + 1 + 0 = 7, found 2 + 1 + 1 + 0 + 1 = 5, both 2 + 0 + 1 = 3.
    assert metrics == Metrics(
        rows=8,
        json_validity=7 / 8,
        intent_accuracy=3 / 8,
        entity_precision=3 / 5,
        entity_recall=3 / 7,
        entity_f1=6 / 12,
        exact_match=2 / 8,
        oos_recall=1 / 2,
        oos_precision=1 / 2,
        tokens_per_second=2.0,
        seconds=4.0,
    )


def test_latencies_are_quantiles_of_the_answers_that_were_asked_one_by_one():
    predictions = [
        Prediction(text="{}", tokens=1, seconds=1.0, latency=float(second), first_token=second / 10)
        for second in range(101)
    ]
    unknown = Prediction(text="{}", tokens=1, seconds=1.0)
    metrics = score([record("report_leak")] * 102, [*predictions, unknown], LABELS)
    assert (metrics.latency_p50, metrics.latency_p95, metrics.latency_p99) == (50, 95, 99)
    assert metrics.first_token_p50 == 5
    assert score([record("report_leak")], [unknown], LABELS).latency_p50 is None


def test_undefined_metrics_are_none_and_never_perfect():
    metrics = score([record("report_leak")], [answer("report_leak")], LABELS)
    assert metrics.entity_f1 is None
    assert metrics.entity_precision is None
    assert metrics.entity_recall is None
    assert metrics.oos_recall is None
    assert metrics.oos_precision is None
    assert metrics.exact_match == 1.0


def test_no_rows_define_nothing():
    metrics = score([], [], LABELS)
    assert all(getattr(metrics, name) is None for name in METRIC_TITLES)
    assert metrics.tokens_per_second is None


def test_a_model_that_never_refuses_has_no_out_of_scope_precision():
    metrics = score([record("out_of_scope")], [answer("report_leak")], LABELS)
    assert metrics.oos_recall == 0.0
    assert metrics.oos_precision is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sure! " + '{"intent": "report_leak", "entities": {}}',
        '```json\n{"intent": "report_leak", "entities": {}}\n```',
        '{"intent": "report_leak", "entities": {}} {"intent": "report_leak", "entities": {}}',
        '{"intent": "report_leak"}',
        '{"intent": "report_leak", "entities": {"asset": 402}}',
        '{"intent": "report_leak", "entities": {"asset": ""}}',
        '{"intent": "report_leak", "entities": {}, "note": "x"}',
        "{'intent': 'report_leak', 'entities': {}}",
        "[" * 5000,
    ],
)
def test_only_json_of_the_contract_is_valid(text: str):
    assert score([record("report_leak")], [said(text)], LABELS).json_validity == 0.0


def test_whitespace_around_the_json_is_allowed():
    metrics = score([record("report_leak")], [said('\n {"intent":"report_leak","entities":{}}\n')], LABELS)
    assert metrics.json_validity == metrics.exact_match == 1.0


def test_a_value_twice_counts_once():
    metrics = score([record("check_asset", asset="P-1")], [answer("check_asset", asset=["P-1", "P-1"])], LABELS)
    assert metrics.entity_f1 == metrics.exact_match == 1.0


def test_a_record_outside_the_label_set_is_refused():
    with pytest.raises(UsageError, match=r"unknown intent 'brew'.*label set 'plant'"):
        score([record("brew")], [answer("brew")], LABELS)


def test_confusion_counts_unknown_and_invalid_answers_in_columns_of_their_own():
    records = [
        record("report_leak"),
        record("report_leak"),
        record("check_asset"),
        record("out_of_scope"),
        record("out_of_scope"),
    ]
    predictions = [
        answer("report_leak"),
        answer("brew"),
        answer("report_leak"),
        said("no"),
        answer("out_of_scope"),
    ]
    matrix = confusion(records, predictions, LABELS)
    assert matrix.expected == ["report_leak", "check_asset", "out_of_scope"]
    assert matrix.answered == [*matrix.expected, "(not in the label set)", "(no valid JSON)"]
    assert matrix.counts == [[1, 0, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 1, 0, 1]]


def test_confusion_has_no_column_that_nothing_needs():
    assert confusion([record("check_asset")], [answer("check_asset")], LABELS).answered == list(LABELS.intents)


def test_wilson_interval_equals_scipy():
    stats = pytest.importorskip("scipy.stats")
    for successes, trials in [(0, 10), (10, 10), (3, 7), (163, 167), (1, 1)]:
        reference = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
        assert wilson_interval(successes, trials) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_wilson_interval_of_a_known_case():
    # Newcombe (1998), table I: 81 of 263, score method.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 0) is None


values = st.text(min_size=1, max_size=6).filter(str.strip)
responses = st.builds(
    lambda intent, entities: Response(intent=intent, entities={} if intent == "out_of_scope" else entities),
    st.sampled_from(list(LABELS.intents)),
    st.dictionaries(
        st.sampled_from(list(LABELS.entities)), values | st.lists(values, min_size=1, max_size=3), max_size=2
    ),
)
texts = st.one_of(st.text(max_size=30), responses.map(lambda response: response.model_dump_json()))
pairs = st.lists(st.tuples(responses, texts), max_size=12)


def score_pairs(rows: list[tuple[Response, str]]) -> Metrics:
    return score(
        [Record(command="c", response=response) for response, _ in rows],
        [said(text) for _, text in rows],
        LABELS,
    )


@given(pairs, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows: list[tuple[Response, str]], shuffler: random.Random):
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    assert score_pairs(shuffled) == score_pairs(rows)


@given(pairs)
def test_shares_are_bounded_and_ordered(rows: list[tuple[Response, str]]):
    metrics = score_pairs(rows)
    for name in METRIC_TITLES:
        value = getattr(metrics, name)
        assert value is None or 0.0 <= value <= 1.0
    if rows:
        assert metrics.exact_match <= metrics.intent_accuracy <= metrics.json_validity  # type: ignore[operator]


@given(st.lists(responses, min_size=1, max_size=12))
def test_perfect_answers_score_one_wherever_defined(expected: list[Response]):
    metrics = score_pairs([(response, answer_text(response, LABELS)) for response in expected])
    values = [getattr(metrics, name) for name in METRIC_TITLES]
    assert set(values) <= {1.0, None}
    assert metrics.exact_match == 1.0
