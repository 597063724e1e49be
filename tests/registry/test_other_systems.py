"""What Windows and macOS lack: files are read and written there as on Linux, by other calls."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from registry import files
from registry.cores import usable_cores
from registry.files import atomic_directory, read_at, write_text
from tasks.gguf.container import GgufFile
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType


@pytest.fixture
def as_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pread", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr("tasks.checkpoints.files._NON_BLOCKING", 0)
    monkeypatch.setattr(files, "_ON_WINDOWS", True)


def test_threads_that_share_a_descriptor_without_pread_read_their_own_bytes(as_windows: None, tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(np.arange(50_000, dtype="<u4").tobytes())
    with path.open("rb") as stream, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: read_at(stream.fileno(), 4, 4 * number), range(50_000)))
    assert b"".join(found) == path.read_bytes()


def test_an_export_has_the_same_bytes_without_the_calls_of_linux(
    tiny_model_dir: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with_them = export_gguf(tiny_model_dir, tmp_path / "a.gguf", weights=QuantType.Q8_0)
    request.getfixturevalue("as_windows")
    without = export_gguf(tiny_model_dir, tmp_path / "b.gguf", weights=QuantType.Q8_0)
    assert without.sha256 == with_them.sha256
    with GgufFile(without.path) as file:
        assert file.tensors


def test_no_folder_is_flushed_where_none_can_be_opened(
    as_windows: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refuse_folders(path: str | Path, flags: int, *rest: int) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse_folders)
    with atomic_directory(tmp_path / "folder") as temporary:
        (temporary / "a.txt").write_text("a")
    write_text(tmp_path / "b.txt", "b")
    assert (tmp_path / "folder" / "a.txt").read_text() == "a"
    assert (tmp_path / "b.txt").read_text() == "b"


def test_every_core_counts_where_the_scheduler_cannot_say(as_windows: None) -> None:
    assert usable_cores() == os.cpu_count()
