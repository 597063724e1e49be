"""Files that are there whole or not at all: written under a temporary name, flushed to disk and renamed.

What is written can be read by whom the folder around it lets in, nobody else: a private home keeps its texts private.
"""

import errno
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.errors import UsageError

_CHUNK = 1 << 20
_UMASK = os.umask(0o077)  # it can only be read by setting it
os.umask(_UMASK)
_ON_WINDOWS = os.name == "nt"  # which flushes only what was opened for writing
_SEEKING = threading.Lock()


def files_below(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """Up to ``length`` bytes from ``offset`` on, for any number of threads at once; fewer at the end of the file."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    with _SEEKING:  # on Windows a descriptor has one position for all
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, length)


def _fsync(path: Path) -> None:
    if _ON_WINDOWS and path.is_dir():
        return  # no folder can be opened there
    descriptor = os.open(path, os.O_RDWR if _ON_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_writable(path: Path) -> None:
    """Make the folder of a file that is to be written. Raises UsageError where it cannot be, before work is wasted."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder where a file is to be written; name a file in it.")
    _make_parent(path)


def _make_parent(path: Path) -> None:
    try:
        _make_folder(path.parent)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; name another place.") from error
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path} cannot be written: {path.parent} is read-only; name another place.")


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        folder.chmod(_mode(folder, 0o777))


def _mode(path: Path, widest: int) -> int:
    return widest & ~_UMASK & path.parent.stat().st_mode


@contextmanager
def _full_disk_explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UsageError(f"{path} cannot be written: {error.strerror}; make room or name another place.") from error


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is flushed and renamed, on an error removed.

    Raises UsageError where nothing can be written there.
    """
    require_writable(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    temporary.chmod(_mode(path, 0o666))  # mkstemp's 0600 would follow the file to its final name
    try:
        with _full_disk_explained(path):
            yield temporary
            _fsync(temporary)
        temporary.replace(path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success it takes its place, on an error it is removed.

    Raises UsageError where nothing can be written there.
    """
    _make_parent(path)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        with _full_disk_explained(path):
            yield temporary
            for file in files_below(temporary):
                _fsync(file)
        if path.exists():
            shutil.rmtree(path)
        temporary.chmod(_mode(path, 0o777))
        temporary.replace(path)
        _fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` so that a reader sees the old file or the new one, never a part."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
