"""Answers as a table: a column of commands comes in, a row for each goes out, as MLflow's pyfunc models are asked."""

import weakref
from collections.abc import Mapping, Sequence

import pandas

from deployment.answers.assistant import Assistant
from registry.errors import UsageError

_COMMAND = "command"
_COLUMNS = [_COMMAND, "intent", "entities", "confidence", "ask_person", "decoding", "failure"]
_UNNAMED = (0, "0", None)  # what pandas calls the column of a plain list


class TableAssistant:
    """An assistant that answers tables; it is closed when nothing refers to this any more, and as the program ends."""

    def __init__(self, assistant: Assistant) -> None:
        self._assistant = assistant
        weakref.finalize(self, assistant.close)

    def predict(self, model_input: pandas.DataFrame | Mapping[str, Sequence[str]] | Sequence[str]) -> pandas.DataFrame:
        """The answers to the column ``command``, or to the one column that has no name, under the input's index.

        A row has command, intent, entities (type to value, or to a list of values), confidence (0..1, None where the
        model is not calibrated), ask_person, decoding and failure; intent is None where there is no answer. Raises
        UsageError where there is no such column, or a row without a command.
        """
        table = model_input if isinstance(model_input, pandas.DataFrame) else pandas.DataFrame(model_input)
        commands = _commands(table)
        answers = [answer.model_dump(mode="json") for answer in self._assistant.answer_many(commands)]
        return pandas.DataFrame(
            [[answer[name] for name in _COLUMNS] for answer in answers],
            columns=_COLUMNS,
            index=table.index,
            dtype=object,  # else pandas makes NaN of an intent of None
        )


def _commands(table: pandas.DataFrame) -> list[str]:
    if _COMMAND in table.columns:
        column = table[_COMMAND]
    elif len(table.columns) == 1 and table.columns[0] in _UNNAMED:
        column = table.iloc[:, 0]
    else:
        found = ", ".join(map(str, table.columns)) or "none"
        raise UsageError(f"The input has no column {_COMMAND!r} but {found}; name the commands' column so.")
    for row, command in zip(column.index, column, strict=True):
        if not isinstance(command, str):
            raise UsageError(f"Row {row} has {command!r} where a command belongs; write a text.")
    return list(column)
