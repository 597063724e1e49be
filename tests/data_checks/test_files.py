import logging
from pathlib import Path

import pytest

from data_checks.contract import write_jsonl
from data_checks.refusals import LinesRefused
from data_checks.sources import dataset_name, find_files, labels_beside, read_records, read_with_inferred_labels
from registry.errors import DataRefused, UsageError
from registry.records import LabelSet, Record, Response, label_set_toml

LABELS = LabelSet(name="plant-7", intents={"report_issue": "", "out_of_scope": ""}, entities={"asset_id": ""})


def record(command: str, intent: str = "report_issue", **entities: str) -> Record:
    return Record(command=command, response=Response(intent=intent, entities=dict(entities)))


def test_a_folder_gives_its_json_lines_files_in_order_and_no_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", ".half.jsonl", "notes.txt"):
        (tmp_path / name).write_text("")
    assert [file.name for file in find_files([tmp_path])] == ["a.jsonl", "b.jsonl"]


def test_a_path_without_audit_data_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no \*\.jsonl file"):
        find_files([tmp_path])
    with pytest.raises(UsageError, match="does not exist"):
        find_files([tmp_path / "gone"])


def test_files_named_after_a_split_are_that_split(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        write_jsonl(tmp_path / f"{split}.jsonl", [record(f"{split} row")])
    found = read_records(find_files([tmp_path]), LABELS)
    assert {(item.split, item.record.command) for item in found} == {
        ("train", "train row"),
        ("validation", "validation row"),
        ("test", "test row"),
    }


def test_other_rows_are_split_by_their_command_alone(tmp_path: Path) -> None:
    commands = [f"machine {number} leaks" for number in range(1000)]
    write_jsonl(tmp_path / "monday.jsonl", [record(command) for command in commands])
    write_jsonl(tmp_path / "tuesday.jsonl", [record(command.upper()) for command in reversed(commands)])
    monday, tuesday = ({item.record.command: item.split for item in read_records([file], LABELS)} for file in
                       find_files([tmp_path]))  # fmt: skip
    assert all(tuesday[command.upper()] == split for command, split in monday.items())
    shares = {split: list(monday.values()).count(split) for split in ("train", "validation", "test")}
    assert 750 < shares["train"] < 850
    assert 70 < shares["validation"] < 130
    assert 70 < shares["test"] < 130


def test_one_bad_line_refuses_every_file_and_names_each_problem(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [record("pump leaks"), record("dance", intent="dance")])
    (tmp_path / "b.jsonl").write_text("not json\n")
    with pytest.raises(LinesRefused, match=r"2 lines of a\.jsonl, b\.jsonl refused, nothing was used") as refused:
        read_records(find_files([tmp_path]), LABELS)
    assert [(problem.file, problem.line) for problem in refused.value.problems] == [
        ("a.jsonl", 2),
        ("b.jsonl", 1),
    ]
    assert refused.value.exit_code == 4


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(DataRefused, match="no record in it"):
        read_records(find_files([tmp_path]), LABELS)


def test_labels_are_inferred_with_a_word_about_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_jsonl(tmp_path / "a.jsonl", [record("SG-1 leaks", asset_id="SG-1"), record("hello", intent="out_of_scope")])
    with caplog.at_level(logging.INFO):
        records, labels = read_with_inferred_labels("plant", find_files([tmp_path]))
    assert len(records) == 2
    assert (list(labels.intents), list(labels.entities)) == (["report_issue", "out_of_scope"], ["asset_id"])
    assert "inferred 2 intents and 1 entity types" in caplog.text


def test_inferred_labels_still_refuse_entities_out_of_scope(tmp_path: Path) -> None:
    wrong = record("hello SG-1", intent="out_of_scope", asset_id="SG-1")
    write_jsonl(tmp_path / "a.jsonl", [record("pump leaks"), wrong])
    with pytest.raises(LinesRefused, match="line 2: out_of_scope must have no entities"):
        read_with_inferred_labels("plant", find_files([tmp_path]))


def test_a_label_set_beside_the_files_is_found(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [record("leak")])
    assert labels_beside(find_files([tmp_path])) is None
    (tmp_path / "labels.toml").write_text(label_set_toml(LABELS))
    assert labels_beside(find_files([tmp_path])) == LABELS


def test_two_folders_with_other_label_sets_are_a_usage_error(tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        write_jsonl(folder / "a.jsonl", [record("leak")])
        (folder / "labels.toml").write_text(label_set_toml(LABELS.model_copy(update={"name": name})))
    with pytest.raises(UsageError, match="--labels"):
        labels_beside(find_files([tmp_path / "one", tmp_path / "two"]))


def test_a_dataset_is_called_like_its_label_set_or_its_folder_or_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "Line 3 (new)"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", [record("leak")])
    write_jsonl(folder / "Shift_A.jsonl", [record("leak")])
    assert dataset_name([folder], LABELS) == "plant-7"
    assert dataset_name([folder], None) == "line-3-new"
    assert dataset_name([folder / "train.jsonl"], None) == "line-3-new"
    assert dataset_name([folder / "Shift_A.jsonl"], None) == "shift-a"
    with pytest.raises(UsageError, match="line-3-new, shift-a; name the one with --dataset"):
        dataset_name([folder, folder / "Shift_A.jsonl"], None)
