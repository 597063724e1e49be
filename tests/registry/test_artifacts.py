"""Artifacts, checksums and writes that happen whole or not at all."""

import os
from pathlib import Path

import pytest

from registry.artifacts import Artifact, verify_checksums, write_checksums
from registry.errors import UsageError
from registry.files import atomic_directory, atomic_file, file_sha256, require_writable, write_text


def test_an_artifact_knows_when_it_was_changed(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.txt", "one")
    folder = Artifact.of("folder", tmp_path / "a")
    assert folder.verify() == tmp_path / "a" and folder.bytes == 3
    write_text(tmp_path / "a" / "b.txt", "two")
    with pytest.raises(UsageError, match=rf"where {folder.sha256[:12]}… was recorded; it changed after it was made"):
        folder.verify()
    with pytest.raises(UsageError, match="does not exist; it should hold the gguf"):
        Artifact.of("gguf", tmp_path / "none.gguf")


def test_the_digest_of_a_folder_counts_names_and_contents_and_not_the_place(tmp_path: Path) -> None:
    for name, file in (("a", "x"), ("b", "x"), ("c", "y")):
        write_text(tmp_path / name / file, "same")
    digests = [Artifact.of("folder", tmp_path / name).sha256 for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


def test_checksums_name_the_first_file_that_differs(tmp_path: Path) -> None:
    for name in ("a.txt", "sub/b.txt"):
        write_text(tmp_path / name, name)
    write_checksums(tmp_path)
    assert verify_checksums(tmp_path) == {name: file_sha256(tmp_path / name) for name in ("a.txt", "sub/b.txt")}
    write_text(tmp_path / "c.txt", "")
    with pytest.raises(UsageError, match=r"c\.txt is not listed"):
        verify_checksums(tmp_path)
    (tmp_path / "c.txt").unlink()
    write_text(tmp_path / "a.txt", "other")
    with pytest.raises(UsageError, match=r"a\.txt has changed"):
        verify_checksums(tmp_path)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UsageError, match=r"a\.txt is missing"):
        verify_checksums(tmp_path)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    write_text(tmp_path / "folder" / "file", "old")
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("new")
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), atomic_directory(tmp_path / "folder") as folder:
        (folder / "file").write_text("new")
        raise ZeroDivisionError
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "file").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_whole_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    write_text(tmp_path / "folder" / "old", "")
    with atomic_directory(tmp_path / "folder") as folder:
        (folder / "new").write_text("")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new"]


@pytest.mark.parametrize(("around", "file", "folder"), [(0o700, 0o600, 0o700), (0o755, 0o644, 0o755)])
def test_what_is_written_is_read_by_whom_the_folder_around_it_lets_in(
    around: int, file: int, folder: int, tmp_path: Path
) -> None:
    tmp_path.chmod(around)
    write_text(tmp_path / "new" / "deep" / "file", "")
    with atomic_directory(tmp_path / "new" / "folder") as temporary:
        (temporary / "x").write_text("")
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.name != "x"}
    assert modes == {"new": folder, "deep": folder, "file": file, "folder": folder}


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "file", "")
    for path, reason in (
        (tmp_path, "is a folder where a file is to be written"),
        (tmp_path / "file" / "below", "cannot be written: (Not a directory|File exists); name another place"),
        (Path("/proc/nowhere/x"), "cannot be written: .*; name another place"),
    ):
        with pytest.raises(UsageError, match=reason):
            write_text(path, "")
    with pytest.raises(UsageError, match="cannot be written"), atomic_directory(Path("/proc/nowhere/x")):
        pass
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(UsageError, match="is read-only"):
        require_writable(tmp_path / "new")
