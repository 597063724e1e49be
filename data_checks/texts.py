"""Unlabelled audit texts: a plant has far more of these than labelled records."""

import json
from collections.abc import Sequence
from pathlib import Path

from data_checks.contract import Problem
from data_checks.refusals import LinesRefused
from registry.errors import UsageError

_SUFFIXES = (".jsonl", ".txt")


def read_texts(paths: Sequence[Path]) -> list[str]:
    """Every distinct text, in order of first appearance.

    Args:
        paths: ``.txt`` files of one text a line, ``.jsonl`` files of objects with a ``text``, or folders of them.

    Raises:
        UsageError: a path gives no file.
        LinesRefused: lines that hold no text; nothing is taken from any file then.
    """
    texts: dict[str, None] = {}
    problems: list[Problem] = []
    for file in files_below(paths):
        with file.open(encoding="utf-8", errors="strict") as lines:
            try:
                for number, line in enumerate(lines, start=1):
                    text = _text(line, file.suffix)
                    if text is None:
                        reason = 'needs an object with a "text" of whole characters'
                        problems.append(Problem(file=str(file), line=number, reason=reason))
                    elif text.strip():
                        texts.setdefault(text.strip())
            except UnicodeDecodeError as error:
                raise UsageError(f"{file} is no UTF-8 text: {error.reason}; convert it first.") from error
    if problems:
        raise LinesRefused(problems)
    if not texts:
        raise UsageError(f"{', '.join(map(str, paths))} holds no text; name files of unlabelled audit texts.")
    return list(texts)


def files_below(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        inside = sorted(file for file in path.glob("*") if file.suffix in _SUFFIXES) if path.is_dir() else [path]
        if not inside or not all(file.is_file() and file.suffix in _SUFFIXES for file in inside):
            raise UsageError(f"{path} is no file or folder of texts; name .txt or .jsonl files.")
        found += inside
    return found


def _text(line: str, suffix: str) -> str | None:
    if suffix != ".jsonl":
        return line
    if not line.strip():
        return ""
    try:
        text = json.loads(line)["text"]
        text.encode()  # half a surrogate pair is no character
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return text
