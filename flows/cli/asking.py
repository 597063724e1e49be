"""What ``ask`` prints and writes: answers for people, for programs, and for files of commands."""

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.live import Live
from rich.text import Text

from deployment.answers.answer import Answer
from deployment.answers.assistant import Assistant
from flows.cli.console import console, errors
from registry.errors import ServiceUnavailable, UsageError
from registry.files import file_sha256
from registry.records import MAX_COMMAND

_PROMPT = "> "
_CHUNK = 256  # commands that are asked before their answers are written
_STYLES = ("bold cyan", "bold magenta", "bold yellow", "bold green", "bold blue", "bold red")


def require_sound(command: str | None, data: Path | None, out: Path | None, *, stream: bool) -> None:
    """Raise UsageError for options that do not go together, before a model is opened."""
    if (data is None) != (out is None):
        raise UsageError("--data and --out go together: name the file of commands and the one for their answers.")
    if data and (command is not None or stream):
        raise UsageError("--data names what is asked; leave out the command and --stream.")
    if command is not None and not command.strip():
        raise UsageError("the command is blank; write what a technician would type.")


def converse(assistant: Assistant, command: str | None, *, stream: bool, as_json: bool) -> None:
    """Answer ``command``, else each line of standard input or of a prompt with history.

    Raises ServiceUnavailable where the only command got no answer.
    """
    for asked in [command] if command is not None else _typed():
        if stream and not as_json:
            answer = _show_stream(assistant.stream(asked))
        else:
            answer = assistant.answer(asked)
            print(answer.model_dump_json() if as_json else _plain(answer), flush=True)  # noqa: T201
        if answer.ask_person and not as_json:
            errors.print(f"Ask a person: this answer is {answer.confidence:.0%} sure.", style="yellow")
        if answer.failure:
            if command is not None:
                raise ServiceUnavailable(answer.failure)
            errors.print(answer.failure, style="red", markup=False)


def answer_file(assistant: Assistant, data: Path, out: Path) -> None:
    """Write an answer for every command of ``data`` to ``out``, a JSON object a line; what is there already is kept.

    Raises UsageError where ``out`` holds the answers to other commands.
    """
    commands = read_commands(data)
    done = _answered(out)
    if done != commands[: len(done)]:
        raise UsageError(f"{out} holds the answers to other commands than those of {data}; name another file.")
    with out.open("a", encoding="utf-8") as file:
        for start in range(len(done), len(commands), _CHUNK):
            for answer in assistant.answer_many(commands[start : start + _CHUNK]):
                file.write(answer.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
    console.print(f"{out}: {len(commands):,} answers, SHA-256 {file_sha256(out)}", markup=False)


def read_commands(data: Path) -> list[str]:
    """The commands of a file: its lines, or the ``command`` of each JSON object of a .jsonl.

    Raises UsageError naming the first line that is none.
    """
    try:
        lines = data.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{data} cannot be read: {error}.") from error
    commands = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        command = _command_of(line) if data.suffix == ".jsonl" else line
        if command is None or not command.strip() or len(command) > MAX_COMMAND:
            raise UsageError(
                f"line {number} of {data} holds no command of 1 to {MAX_COMMAND:,} characters; mend it or leave it out."
            )
        commands.append(command)
    if not commands:
        raise UsageError(f"{data} holds no commands; write one a line.")
    return commands


def _command_of(line: str) -> str | None:
    try:
        command = json.loads(line)["command"]
    except (ValueError, KeyError, TypeError):
        return None
    return command if isinstance(command, str) else None


def _answered(out: Path) -> list[str]:
    """The commands whose answers ``out`` holds; a line that was cut off in the middle is taken back."""
    if not out.exists():
        return []
    content = out.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    try:
        commands = [Answer.model_validate_json(line).command for line in whole.splitlines()]
    except ValueError as error:
        raise UsageError(f"{out} holds something else than answers; name another file.") from error
    if len(whole) < len(content):
        os.truncate(out, len(whole))
    return commands


def _typed() -> Iterator[str]:
    """Commands from a prompt, whose arrow keys bring earlier ones back, or from standard input."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):  # Windows has it in its console
            import readline  # noqa: F401
        lines = iter(_prompted, "")
    else:
        lines = (line.rstrip("\n") for line in sys.stdin)
    return (line for line in lines if line.strip())


def _prompted() -> str:
    """What is typed next; empty at the end."""
    try:
        return input(_PROMPT)
    except (EOFError, KeyboardInterrupt):
        errors.print()
        return ""


def _plain(answer: Answer) -> str:
    """As a device answers."""
    if answer.intent is None:
        return "{}"
    return json.dumps({"intent": answer.intent, "entities": answer.entities}, ensure_ascii=False)


def _show_stream(answers: Iterable[Answer]) -> Answer:
    """Print the answer while it grows, and return it."""
    last = None
    with Live(console=console, auto_refresh=False) as live:
        for last in answers:
            live.update(_highlighted(last), refresh=True)
    assert last is not None  # noqa: S101 - a stream ends with its whole answer
    return last


def _highlighted(answer: Answer) -> Text:
    """The command with its values marked, and the fields below."""
    text = Text(answer.command)
    types = list(dict.fromkeys(span.type for span in answer.spans))
    for span in answer.spans:
        if span.start is not None and span.end is not None:
            text.stylize(_style(types, span.type), span.start, span.end)
    text.append(f"\n  {answer.intent or '…'}", "bold").append(_sure(answer.intent_confidence), "dim")
    for span in answer.spans:
        text.append(f"\n  {span.type}: ").append(span.value, _style(types, span.type))
        text.append(_sure(span.confidence), "dim")
    return text if answer.done else text.append("\n  …", "dim")


def _sure(confidence: float | None) -> str:
    return "" if confidence is None else f"  {confidence:.0%}"


def _style(types: list[str], name: str) -> str:
    return _STYLES[types.index(name) % len(_STYLES)]
