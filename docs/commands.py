"""Write docs/commands.md from the command line's own help: ``python docs/commands.py``."""

import inspect
import re
from pathlib import Path
from typing import Any

import typer

from flows.cli.main import app

_PAGE = Path(__file__).with_suffix(".md")
_HEAD = """\
# Commands

*For everyone: every command with its arguments and options, as `gemmill COMMAND --help` has them.*

The commands live in `.venv/bin`; `source .venv/bin/activate` puts them on the path. What the exit codes mean, and which
environment variables there are: [Registry](registry.md#exit-codes).

This page is written by `python docs/commands.py`.
"""


def commands_page() -> str:
    """The page: a table of all commands, then each with a table of what it takes."""
    program = typer.main.get_command(app)
    commands = list(_commands(program, "gemmill"))
    lines = [_HEAD, "| command | does |", "|---|---|"]
    lines += [f"| [`{name}`](#{_anchor(name)}) | {_first_sentence(command)} |" for name, command in commands]
    if options := _rows(program, "gemmill"):
        lines += ["", "Before any command:", "", "| option | |", "|---|---|", *options]
    for name, command in commands:
        usage = " ".join(command.collect_usage_pieces(_context(command, name)))
        usage = re.sub(r"\{(\w+)\}", lambda argument: argument[1].upper(), usage)
        lines += ["", f"## {name}", "", inspect.cleandoc(command.help or ""), "", f"    {name} {usage}", ""]
        lines += ["| argument or option | |", "|---|---|", *_rows(command, name)]
    return "\n".join(lines) + "\n"


def _commands(group: Any, path: str) -> Any:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _context(command: Any, name: str) -> Any:
    return command.context_class(command, info_name=name)


def _rows(command: Any, name: str) -> list[str]:
    context = _context(command, name)
    records = (option.get_help_record(context) for option in command.get_params(context) if option.name != "help")
    return [f"| `{_cell(names)}` | {_cell(text)} |" for names, text in filter(None, records)]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _first_sentence(command: Any) -> str:
    return _cell(inspect.cleandoc(command.help or "").partition("\n\n")[0])


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


if __name__ == "__main__":
    _PAGE.write_text(commands_page(), encoding="utf-8")
