"""The small files of a model folder, none of them trusted: bounded in size, regular files, sound JSON."""

import json
import os
import re
import reprlib
import stat
from pathlib import Path
from typing import Any

from registry.errors import UsageError

VOCABULARY_MAP = "vocabulary_map.json"  # of a model with part of its base's tokens: their ids there
MAX_TEXT = 16 << 20  # bytes; Gemma's tokenizer_config.json takes 1 MB
MAX_TOKENIZER = 64 << 20  # bytes; Google's tokenizer.json takes 33 MB
_MAX_SHOWN = 100  # characters
_NON_BLOCKING = getattr(os, "O_NONBLOCK", 0)  # not on Windows, which has no pipes in folders
_BINARY = getattr(os, "O_BINARY", 0)  # on Windows only
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60


def shown(value: object) -> str:
    """``value`` as an error message quotes it: its repr, cut to a readable length."""
    text = _short.repr(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


def open_file(path: Path) -> int:
    """A descriptor for reading ``path``. Raises UsageError where there is none, or no regular file.

    A pipe would block for ever and a device never end.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _NON_BLOCKING | _BINARY)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', error)}.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"{path} cannot be read: it is not a file.")
    return descriptor


def read_bytes(path: Path, limit: int = MAX_TEXT) -> bytes:
    """The content of ``path``. Raises UsageError where it cannot be read or is longer than ``limit``."""
    with os.fdopen(open_file(path), "rb") as stream:
        try:
            content = stream.read(limit + 1)
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    if len(content) > limit:
        raise UsageError(f"{path} is longer than {limit >> 20} MB, more than any model needs.")
    return content


def read_text(path: Path, limit: int = MAX_TEXT) -> str:
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: {error}.") from error


def read_json(path: Path, limit: int = MAX_TEXT) -> dict[str, Any]:
    """The JSON object in ``path``. Raises UsageError where there is none, or one that readers would not agree on."""
    try:
        return parse_json(read_text(path, limit))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}.") from error


def parse_json(text: str) -> dict[str, Any]:
    """The JSON object in ``text``. Raises ValueError for anything else, a repeated key and half a surrogate pair."""
    try:
        content = json.loads(text, object_pairs_hook=_unique)
        if _SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half a surrogate pair") from None
    if not isinstance(content, dict):
        raise ValueError("it holds no object")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {shown(twice)} appears twice")
    return content
