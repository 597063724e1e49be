from rich.console import Console

from data_checks.contract import Problem
from data_checks.refusals import LinesRefused, problem_table


def printed(problems: list[Problem]) -> str:
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(problem_table(problems))
    return capture.get()


def test_the_table_names_file_line_and_reason() -> None:
    text = printed([Problem(file="shift.jsonl", line=12, reason="unknown intent 'dance'")])
    assert "shift.jsonl" in text
    assert "12" in text
    assert "unknown intent 'dance'" in text


def test_a_reason_in_square_brackets_is_text_and_no_markup() -> None:
    assert "[red]boo[/red]" in printed([Problem(file="a.jsonl", line=1, reason="[red]boo[/red]")])


def test_a_long_table_is_cut_and_says_so() -> None:
    text = printed([Problem(file="a.jsonl", line=line, reason="bad") for line in range(1, 61)])
    assert "and 10 more" in text


def test_the_error_names_the_first_problem_in_one_or_two_sentences() -> None:
    error = LinesRefused([Problem(file="a.jsonl", line=7, reason="record: Invalid JSON")])
    assert str(error) == (
        "1 line of a.jsonl refused, nothing was used; first: a.jsonl line 7: record: Invalid JSON. "
        "Correct the file and try again."
    )
