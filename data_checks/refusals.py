"""Audit files that were refused: every bad line with its reason."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from data_checks.contract import Problem
from registry.errors import DataRefused

_SHOWN = 50  # lines of a table; a file of another format has one problem a line


class LinesRefused(DataRefused):
    """Lines that break the record contract; ``problems`` names each of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        files = sorted({problem.file for problem in problems})
        lines = f"{len(problems)} line{'s' if len(problems) > 1 else ''}"
        first = problems[0]
        super().__init__(
            f"{lines} of {', '.join(files)} refused, nothing was used; "
            f"first: {first.file} line {first.line}: {first.reason}. Correct the file and try again."
        )
        self.problems = list(problems)


def problem_table(problems: Sequence[Problem]) -> Table:
    """What is wrong, line by line, for the terminal."""
    rest = len(problems) - _SHOWN
    table = Table(title="Refused lines", caption=f"and {rest} more" if rest > 0 else None)
    table.add_column("file", overflow="fold")
    table.add_column("line", justify="right")
    table.add_column("reason", overflow="fold")
    for problem in problems[:_SHOWN]:
        table.add_row(Text(problem.file), str(problem.line), Text(problem.reason))
    return table
