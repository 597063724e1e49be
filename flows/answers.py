"""What the shipped file said in its evaluation that a person should see."""

from collections.abc import Sequence

from flows.run import Run
from flows.summary import Answer
from registry.artifacts import Artifact
from registry.records import answer_text
from tasks.evaluation.golden import golden_rows
from tasks.evaluation.report import EvaluatedRow, load_report

_GOLDEN = 3  # commands that are shown, where the label set names no more
_WORST = 3


def golden_answers(run: Run, evaluation: Artifact) -> list[Answer]:
    """The answers to the first golden commands, beside those that the test split gives."""
    named = run.snapshot.label_set.golden
    return _answers(run, golden_rows(load_report(evaluation.verify()).rows, named)[: max(_GOLDEN, len(named))])


def worst_answers(run: Run, evaluation: Artifact) -> list[Answer]:
    """The wrong answers that are furthest off."""

    def rank(row: EvaluatedRow) -> int:
        return 0 if row.got is None else 1 if row.got.intent != row.expected.intent else 2

    wrong = sorted((row for row in load_report(evaluation.verify()).rows if not row.ok), key=rank)
    return _answers(run, wrong[:_WORST])


def _answers(run: Run, rows: Sequence[EvaluatedRow]) -> list[Answer]:
    labels = run.snapshot.label_set
    return [
        Answer(
            command=row.command,
            answer=row.answer,
            expected=answer_text(row.expected, labels, compact=run.settings.compact_answers),
            ok=row.ok,
        )
        for row in rows
    ]
