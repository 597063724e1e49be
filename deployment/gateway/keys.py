"""API keys: the file knows their SHA-256 alone, so who reads it has no key."""

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from registry.errors import UsageError

_log = logging.getLogger(__name__)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LOOK_SECONDS = 1.0  # between two looks at the file
_SHOWN = 8  # characters of a digest that stand for a key without a name


@dataclass(frozen=True)
class Keys:
    """The keys that are let in: the digest of each, and whose it is."""

    names: dict[str, str]

    def name_of(self, key: bytes) -> str | None:
        """Whose ``key`` is; None where it is nobody's. Takes as long whatever the key is."""
        given, found = hashlib.sha256(key).hexdigest(), None
        for digest, name in self.names.items():
            if hmac.compare_digest(given, digest):
                found = name
        return found


def read_keys(path: Path) -> Keys:
    """The keys of a file: a line for each, its SHA-256 in hex and a name if it has one; ``#`` begins a comment.

    Raises UsageError naming the first line that is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"keys {path} cannot be read: {error}.") from error
    names: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        digest, _, name = line.partition("#")[0].strip().partition(" ")
        if not digest:
            continue
        digest = digest.lower()
        if not _DIGEST.fullmatch(digest):
            raise UsageError(
                f"line {number} of {path} begins with no SHA-256 of 64 hex digits; "
                "write what printf %s KEY | sha256sum prints."
            )
        if digest in names:
            raise UsageError(f"line {number} of {path} has a key that an earlier line has; leave one of them out.")
        names[digest] = name.strip(" -") or digest[:_SHOWN]
    if not names:
        raise UsageError(f"{path} holds no key; write the SHA-256 of one a line.")
    return Keys(names)


class KeysFile:
    """The keys of a file as it is now: a change is taken up within a second, and one that cannot be used, which the log
    tells, leaves the keys as they were.

    Raises UsageError as :func:`read_keys` does where it cannot be used from the start.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._looked, self._stamp = clock(), _stamp(path)
        self._keys = read_keys(path)

    def name_of(self, key: bytes) -> str | None:
        """Whose ``key`` is; None where it is nobody's."""
        if self._clock() - self._looked >= _LOOK_SECONDS:
            self._looked = self._clock()
            self._look()
        return self._keys.name_of(key)

    def _look(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = read_keys(self._path)
        except UsageError as error:
            _log.warning("The keys stay as they were: %s", error)
        else:
            _log.info("%s has %d keys now.", self._path, len(self._keys.names))


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What differs once a file has changed; None where there is none to look at."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
