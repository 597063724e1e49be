"""From scores of answers that are known to be right or wrong to confidences and thresholds."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression

from deployment.answers.doubt import Doubt, Sigmoid
from tasks.doubt.scores import Judged, ScoredAnswer

FEWEST = 10  # rows of each kind, in scope and out of it, below which nothing is calibrated
_EVEN = 0.0  # log-odds from which the model itself says out of scope


def calibrate(answers: Sequence[ScoredAnswer], *, false_rejects: float, ask_below: float, source: str) -> Doubt | None:
    """What the scores of such answers mean; None where there are too few of either kind.

    Args:
        answers: grounded ones, none of them to a record that the model was trained on.
        false_rejects: share of the commands in scope that may be rejected for their score.
        ask_below: confidence below which a person is to be asked.
        source: which rows these are, for people.
    """
    outside = [answer.out_of_scope.score for answer in answers if answer.out_of_scope.right]
    inside = [answer.out_of_scope.score for answer in answers if not answer.out_of_scope.right]
    if min(len(outside), len(inside)) < FEWEST:
        return None
    return Doubt(
        out_of_scope=fitted(answer.out_of_scope for answer in answers),
        intent=fitted(answer.intent for answer in answers),
        field=fitted(field for answer in answers for field in answer.fields),
        answer=fitted(answer.answer for answer in answers),
        out_of_scope_from=threshold(inside, outside, false_rejects=false_rejects),
        ask_below=ask_below,
        in_scope_rows=len(inside),
        out_of_scope_rows=len(outside),
        source=source,
    )


def fitted(judged: Iterable[Judged]) -> Sigmoid:
    """The sigmoid of the greatest likelihood, with the targets of Platt (1999), which keep it from being certain where
    all scores of one kind are right. Scores that say the contrary of what they should are given no weight."""
    known = list(judged)
    right = sum(item.right for item in known)
    wrong = len(known) - right
    share = (right + 1) / (len(known) + 2)
    even = Sigmoid(slope=0.0, intercept=math.log(share / (1 - share)))
    if not right or not wrong:
        return even
    targets = np.array([(right + 1) / (right + 2) if item.right else 1 / (wrong + 2) for item in known])
    scores = np.array([[item.score] for item in known])
    model = LogisticRegression(C=np.inf)
    model.fit(
        np.concatenate([scores, scores]),
        np.repeat([1, 0], len(known)),
        sample_weight=np.concatenate([targets, 1 - targets]),
    )
    slope, intercept = (float(np.ravel(found)[0]) for found in (model.coef_, model.intercept_))
    return Sigmoid(slope=slope, intercept=intercept) if slope > 0 else even


def threshold(inside: Sequence[float], outside: Sequence[float], *, false_rejects: float) -> float:
    """The score from which a command is out of scope: the one that finds most of ``outside``, then rejects fewest of
    ``inside``, in the middle of the gap where it may lie.

    Even odds, where the model itself says out of scope, unless the rows show at 95 % (Clopper and Pearson 1934) that
    a lower one rejects at most ``false_rejects`` of the commands in scope; 130 rows cannot show 1 %, 299 can.
    """
    scores = np.unique(np.array([*inside, *outside, _EVEN]))
    between = [*((scores[:-1] + scores[1:]) / 2).tolist(), _EVEN]

    def worth(cut: float) -> tuple[int, int]:
        return sum(score >= cut for score in outside), -sum(score >= cut for score in inside)

    sound = [cut for cut in between if cut < _EVEN and _upper_bound(-worth(cut)[1], len(inside)) <= false_rejects]
    return max([*sound, _EVEN], key=lambda cut: (worth(cut), cut))


def _upper_bound(count: int, rows: int) -> float:
    """Of a share that was seen ``count`` times, one-sided at 95 %."""
    return 1.0 if count == rows else float(beta.ppf(0.95, count + 1, rows - count))
