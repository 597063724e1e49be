"""Unlabelled texts from the files that a plant has."""

from pathlib import Path

import pytest

from data_checks.refusals import LinesRefused
from data_checks.texts import read_texts
from registry.errors import UsageError


def test_texts_come_from_lines_and_from_objects_each_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("pump leaks\n\n  PUMP leaks \npump leaks\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "pump leaks", "id": 1}\n\n{"text": "Ventil öffnet nicht"}\n', "utf-8")
    (tmp_path / "c.csv").write_text("left alone")
    assert read_texts([tmp_path]) == ["pump leaks", "PUMP leaks", "Ventil öffnet nicht"]


def test_lines_without_a_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "good"}\n{"command": "x"}\nnot json\n["text"]\n{"text": 7}\n{"text": "\\ud800"}\n')
    with pytest.raises(LinesRefused) as refused:
        read_texts([path])
    assert [problem.line for problem in refused.value.problems] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("content", [b"", b"\n \n", None])
def test_paths_without_a_text_are_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"holds no text|is no file or folder of texts"):
        read_texts([path])


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "audit.csv").write_text("id,text\n")
    (tmp_path / "folder.txt").mkdir()
    for path in (tmp_path / "audit.csv", tmp_path / "folder.txt", tmp_path):
        with pytest.raises(UsageError, match=r"name \.txt or \.jsonl files"):
            read_texts([path])


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("Ölstand prüfen".encode("latin-1"))
    with pytest.raises(UsageError, match="is no UTF-8 text"):
        read_texts([path])
