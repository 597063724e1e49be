"""Calibration on simulated answers whose truth is known, against sklearn's and scipy's own figures."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta
from sklearn.metrics import roc_auc_score

from deployment.answers.doubt import Sigmoid, scores_of
from deployment.runtimes.logprobs import TokenLogprobs
from deployment.runtimes.prediction import Prediction
from registry.records import OUT_OF_SCOPE, Record, Response
from tasks.doubt.calibration import FEWEST, calibrate, fitted, threshold
from tasks.doubt.folds import folds
from tasks.doubt.report import doubt_figure, doubt_report, doubt_table, ece, risk_coverage
from tasks.doubt.scores import Judged, ScoredAnswer, scored_answers

BUDGET = {"false_rejects": 0.01, "ask_below": 0.5, "source": "simulated rows"}


def drawn(rows: int, *, seed: int, slope: float = 0.8, intercept: float = -0.4) -> list[ScoredAnswer]:
    """Answers whose scores mean what a sigmoid says, a fifth of them out of scope."""
    generator = np.random.default_rng(seed)
    truth = Sigmoid(slope=slope, intercept=intercept)

    def judged(score: float) -> Judged:
        return Judged(score, bool(generator.random() < truth(score)))

    answers = []
    for row in range(rows):
        outside = row % 5 == 0
        scope = float(generator.normal(6 if outside else -6, 2))
        scores = generator.normal(1.5, 3, size=4).tolist()
        answers.append(
            ScoredAnswer(
                out_of_scope=Judged(scope, outside),
                rejected=scope > 0,
                intent=judged(scores[0]),
                answer=judged(scores[1]),
                fields=(judged(scores[2]), judged(scores[3])),
            )
        )
    return answers


def test_the_sigmoid_that_the_answers_were_drawn_by_is_found_again() -> None:
    found = fitted(answer.answer for answer in drawn(20_000, seed=1))
    assert found.slope == pytest.approx(0.8, abs=0.05)
    assert found.intercept == pytest.approx(-0.4, abs=0.1)


def test_scores_without_a_wrong_one_are_no_certainty() -> None:
    found = fitted([Judged(float(score), True) for score in range(50)])
    assert found(1000.0) == pytest.approx(51 / 52)
    parted = fitted([Judged(float(score), score > 0) for score in range(-20, 21)])
    assert 0.9 < parted(20.0) < 1


def test_scores_that_say_the_contrary_count_for_nothing() -> None:
    found = fitted([Judged(float(score), score < 0) for score in range(-20, 21)])
    assert found.slope == 0
    assert found(20.0) == found(-20.0) == pytest.approx(21 / 43)


@pytest.mark.parametrize(("rows", "moves"), [(130, False), (298, False), (299, True), (1200, True)])
def test_the_threshold_moves_only_where_the_rows_can_show_the_budget(rows: int, moves: bool) -> None:
    inside = [-9.0] * rows
    cut = threshold(inside, [-3.0, 5.0], false_rejects=0.01)
    assert cut == (pytest.approx(-6.0) if moves else 0.0)
    assert (beta.ppf(0.95, 1, rows) <= 0.01) == moves


def test_the_threshold_rejects_no_more_than_the_budget_and_finds_the_most() -> None:
    inside = [-9.0] * 1190 + [-4.0] * 4 + [-2.0] * 6
    cut = threshold(inside, [-5.0, -3.0, -1.0, 5.0], false_rejects=0.01)
    assert -4.0 < cut <= -3.0  # 6 of 1,200 have a bound of 0.98 %, 10 one of 1.4 %
    assert threshold(inside, [5.0], false_rejects=0.01) == 0.0


def test_a_calibrated_model_knows_how_often_it_is_right() -> None:
    doubt = calibrate(drawn(4000, seed=2), **BUDGET)
    assert doubt is not None
    assert (doubt.in_scope_rows, doubt.out_of_scope_rows, doubt.source) == (3200, 800, "simulated rows")
    answers = drawn(1500, seed=3)
    report = doubt_report(answers, doubt)
    for estimate in (report.ece_answer, report.ece_intent, report.ece_field):
        assert estimate.value is not None and estimate.value < 0.05
        assert estimate.interval is not None and estimate.interval[0] <= estimate.value * 1.5
    assert report.false_rejects.value is not None and report.false_rejects.value < 0.01
    assert report.asked is not None and 0.2 < report.asked < 0.6
    assert report.right_unasked.value is not None and report.right_unasked.value > 0.75
    skewed = doubt.model_copy(update={"answer": Sigmoid(slope=0.0, intercept=4.0)})
    wrong = doubt_report(answers, skewed)
    assert wrong.ece_answer.value is not None and wrong.ece_answer.value > 0.2


def test_too_few_rows_of_either_kind_calibrate_nothing() -> None:
    answers = drawn(5 * (FEWEST - 1), seed=4)
    assert calibrate(answers, **BUDGET) is None
    assert calibrate([], **BUDGET) is None
    assert calibrate([answer for answer in drawn(500, seed=4) if not answer.out_of_scope.right], **BUDGET) is None


def test_figures_are_those_of_others() -> None:
    answers = drawn(500, seed=5)
    doubt = calibrate(drawn(2000, seed=6), **BUDGET)
    assert doubt is not None
    report = doubt_report(answers, doubt)
    scores, right = zip(*(answer.out_of_scope for answer in answers), strict=True)
    assert report.auroc.value == pytest.approx(roc_auc_score(right, scores))
    assert report.curve[-1] == (1.0, pytest.approx(np.mean([_right(answer) for answer in answers])))
    assert set(report.figures()) == {
        "doubt.auroc", "doubt.out_of_scope_recall", "doubt.false_rejects", "doubt.ece_answer", "doubt.ece_intent",
        "doubt.ece_field", "doubt.ece_out_of_scope", "doubt.right_unasked", "doubt.asked",
    }  # fmt: skip
    assert doubt_table({"m": report}).row_count == 9
    assert doubt_figure(report).axes[0].get_title() == "Confidence"


def _right(answer: ScoredAnswer) -> bool:
    return answer.out_of_scope.right if answer.rejected else answer.answer.right


def test_a_report_on_nothing_has_no_figures() -> None:
    doubt = calibrate(drawn(500, seed=7), **BUDGET)
    assert doubt is not None
    report = doubt_report([], doubt)
    assert set(report.figures().values()) == {None}
    assert doubt_table({"m": report}).row_count == 9


def test_ece_and_risk_by_hand() -> None:
    pairs = np.array([(0.1 * place + 0.05, float(place >= 5)) for place in range(10)])
    assert ece(pairs) == pytest.approx(np.mean([0.05, 0.15, 0.25, 0.35, 0.45, 0.45, 0.35, 0.25, 0.15, 0.05]))
    assert risk_coverage(pairs[::3]) == [(0.25, 1.0), (0.5, 1.0), (0.75, pytest.approx(2 / 3)), (1.0, 0.5)]


def record(number: int, intent: str) -> Record:
    return Record(command=f"command {number}", response=Response(intent=intent, entities={}))


@given(st.lists(st.sampled_from(["a", "b", OUT_OF_SCOPE]), min_size=30, max_size=60), st.integers(2, 5))
def test_folds_hold_every_record_out_once_whatever_their_order(intents: list[str], count: int) -> None:
    records = [record(number, intent) for number, intent in enumerate(intents)]
    found = folds(records, count, seed=1)
    assert sorted(item.command for fold in found for item in fold.held_out) == sorted(r.command for r in records)
    for fold in found:
        assert not {item.command for item in fold.train} & {item.command for item in fold.held_out}
        assert len(fold.train) + len(fold.held_out) == len(records)
    assert folds(records[::-1], count, seed=1) == found


def test_only_answers_whose_tokens_are_told_are_scored() -> None:
    text = '{"intent": "a", "entities": {"asset": "P-1"}}'
    tokens = (TokenLogprobs(text.encode(), math.log(0.9), ()),)
    asked = [
        Record(command="1", response=Response(intent="a", entities={"asset": "P-1"})),
        Record(command="2", response=Response(intent="a", entities={"asset": "P-2"})),
        Record(command="3", response=Response(intent=OUT_OF_SCOPE, entities={})),
    ]
    told = Prediction(text=text, tokens=1, seconds=0.1, logprobs=tokens)
    first, second = scored_answers(asked, [told, told, Prediction(text=text, tokens=1, seconds=0.1)])
    assert scores_of(tokens) is not None
    assert (first.answer.right, first.intent.right, [field.right for field in first.fields]) == (True, True, [True])
    assert (second.answer.right, second.intent.right, [field.right for field in second.fields]) == (
        False,
        True,
        [False],
    )
