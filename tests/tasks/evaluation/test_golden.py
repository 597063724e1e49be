from deployment.runtimes.prediction import Prediction
from registry.records import LabelSet, Record, answer_text
from tasks.evaluation.golden import golden_rows
from tasks.evaluation.report import EvaluatedRow, evaluation_report


def rows(records: list[Record], labels: LabelSet, *, wrong: set[int]) -> list[EvaluatedRow]:
    """The records answered as they should be, but for those at the places ``wrong``."""
    answers = [
        Prediction(text="no idea" if place in wrong else answer_text(record.response, labels), tokens=5, seconds=0.1)
        for place, record in enumerate(records)
    ]
    report = evaluation_report(records, answers, labels, model="m", sha256=None, dataset="d", dataset_sha256="0" * 64)
    return report.rows


def test_named_commands_come_first_in_their_order_even_when_answered_wrongly(
    plant_records: list[Record], plant_labels: LabelSet
) -> None:
    found = golden_rows(
        rows(plant_records, plant_labels, wrong={0, 2}), [plant_records[3].command, f" {plant_records[2].command} "]
    )
    assert [row.number for row in found] == [4, 3, 2, 1]


def test_without_names_right_answers_come_first(plant_records: list[Record], plant_labels: LabelSet) -> None:
    found = golden_rows(rows(plant_records, plant_labels, wrong={0, 2}), [])
    assert [row.number for row in found] == [2, 4, 1, 3]


def test_a_named_command_that_was_not_asked_is_passed_over(plant_records: list[Record], plant_labels: LabelSet) -> None:
    found = golden_rows(rows(plant_records, plant_labels, wrong=set()), ["Dance.", plant_records[1].command])
    assert [row.number for row in found] == [2, 1, 3, 4]
