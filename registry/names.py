"""Names that MLflow, Ollama, every file system, a database and a TOML file take alike."""

import re

from registry.errors import UsageError

_LONGEST = 64
_NAME = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{_LONGEST - 1}}}")
_ALIAS = re.compile(rf"(?!v\d+$|latest$)[a-z0-9_-]{{1,{_LONGEST}}}", re.IGNORECASE)  # MLflow keeps the other two
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}
_SHOWN = 80  # characters of a name that is refused


def name_fault(name: str) -> str | None:
    """What is wrong with the name of a dataset or model; None where nothing is."""
    if not _NAME.fullmatch(name):
        return f"{_shown(name)} is no name; write 1 to {_LONGEST} of a-z, 0-9, _ and -, a letter or digit first"
    if name in _DEVICES:
        return f"{name!r} is a device on Windows, where no file can be called that; take another name"
    return None


def require_name(name: str, what: str) -> str:
    """``name``, if every part of gemmill takes it. Raises UsageError that calls it ``what``."""
    fault = name_fault(name)
    if fault:
        raise UsageError(f"{what}: {fault}.")
    return name


def require_alias(alias: str) -> str:
    """``alias``, if it can be the alias or the number of a version. Raises UsageError."""
    if not _ALIAS.fullmatch(alias):
        raise UsageError(
            f"{_shown(alias)} is neither an alias nor the number of a version; an alias has 1 to {_LONGEST} letters, "
            "digits, _ and -, and is neither latest nor v with a number."
        )
    return alias


def usable_name(title: str) -> str:
    """``title`` if it is a name, else as near to it as can be. Raises UsageError where nothing of it is left."""
    if name_fault(title) is None:
        return title
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:_LONGEST].rstrip("-")
    if not name:
        raise UsageError(f"{_shown(title)} holds none of a-z and 0-9 to call the dataset by; name it with --dataset.")
    return f"{name}-data" if name in _DEVICES else name


def _shown(name: str) -> str:
    return repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…")
