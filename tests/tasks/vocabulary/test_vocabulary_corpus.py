"""What counts: records as they are trained, texts, never the test split."""

import json
from pathlib import Path

import pytest

from data_checks.contract import write_jsonl
from data_checks.refusals import LinesRefused
from data_checks.sample import SAMPLE_DIR
from registry.errors import UsageError
from registry.records import LabelSet, Record
from tasks.vocabulary.corpus import read_corpus


@pytest.fixture
def folder(tmp_path: Path, records: list[Record]) -> Path:
    for split, part in (("train", records[:6]), ("validation", records[6:9]), ("test", records[9:12])):
        write_jsonl(tmp_path / f"{split}.jsonl", part)
    (tmp_path / "labels.toml").write_text((SAMPLE_DIR / "labels.toml").read_text())
    (tmp_path / "notes.txt").write_text("Seal of P-101 replaced.\n\nAgain.\n")
    (tmp_path / "raw.jsonl").write_text('\n{"text": "belt slips", "meta": {"command": "x"}}\n')
    return tmp_path


def test_a_folder_gives_records_and_texts_without_the_test_split(
    folder: Path, records: list[Record], labels: LabelSet
) -> None:
    corpus = read_corpus([folder])
    assert corpus.records == [*records[:6], *records[6:9]]
    assert corpus.labels == labels
    assert corpus.texts == ["Seal of P-101 replaced.", "Again.", "belt slips"]


def test_rows_of_other_files_that_are_tested_with_do_not_count(folder: Path, records: list[Record]) -> None:
    file = folder / "all.jsonl"
    write_jsonl(file, records)
    found = read_corpus([file]).records
    assert 0 < len(found) < len(records)


def test_labels_may_be_given_or_those_that_the_records_use(folder: Path, labels: LabelSet) -> None:
    (folder / "labels.toml").unlink()
    inferred = read_corpus([folder]).labels
    assert inferred and inferred.intents.keys() < labels.intents.keys()
    assert read_corpus([folder], SAMPLE_DIR / "labels.toml").labels == labels


def test_test_rows_alone_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="rows of the test split only"):
        read_corpus([folder / "test.jsonl"])


def test_a_path_without_texts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("text\nSeal replaced.\n")
    (tmp_path / "folder").mkdir()
    for name, reason in (
        ("nowhere.txt", "nowhere.txt"), ("notes.csv", "notes.csv"), ("folder", r"no \.jsonl and no \.txt file")
    ):  # fmt: skip
        with pytest.raises(UsageError, match=reason):
            read_corpus([tmp_path / name])


@pytest.mark.parametrize("line", ["[1]", "no json", json.dumps({"note": "x"})])
def test_a_line_that_is_neither_record_nor_text_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(line + "\n")
    with pytest.raises(LinesRefused, match="line 1"):
        read_corpus([tmp_path / "bad.jsonl"])
