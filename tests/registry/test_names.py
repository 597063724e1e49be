"""Names that would leave their place, or that another part refuses later, are refused where they enter."""

from pathlib import Path

import pytest

from data_checks.sources import dataset_name
from registry import models
from registry.errors import UsageError
from registry.names import name_fault, require_alias, usable_name
from registry.records import load_label_set
from registry.store.datasets import AuditStore
from registry.store.snapshots import take_snapshot

REFUSED = ["../../evil", "", "plant/line7", "plant\\line7", 'a"b', "a'b", "x" * 300, "a b", "a.b", "a:b", "Plant", "-x",
           "_x", "mühle", "a\n", "con", "nul", "com1", "."]  # fmt: skip
TAKEN = ["gemma3-manufacturing", "7", "line_7", "x" * 64, "console", "com10"]


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_not_all_take_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    fault = name_fault(name)
    assert fault and "\n" not in fault and len(fault) < 250
    with AuditStore(f"sqlite:///{tmp_path / 'home' / 'audit.db'}") as store:
        with pytest.raises(UsageError, match=r"^dataset: "):
            store.ingest(name, [], source="a", labels="")
        with pytest.raises(UsageError, match=r"^dataset: "):
            take_snapshot(store, name, tmp_path / "home" / "snapshots")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert not (tmp_path / "home" / "snapshots").exists()


@pytest.mark.parametrize("name", TAKEN)
def test_a_name_that_all_take_is_taken(name: str) -> None:
    assert name_fault(name) is None


@pytest.mark.parametrize("name", ["con", "x" * 65, "../x"])
def test_a_label_set_names_a_dataset(name: str, tmp_path: Path) -> None:
    (tmp_path / "labels.toml").write_text(f'name = "{name}"\n[intents]\nreport = ""\n[entities]\n')
    with pytest.raises(UsageError, match=r"labels\.toml: name: .*"):
        load_label_set(tmp_path / "labels.toml")


@pytest.mark.parametrize("title", ["Line 7 (new)", "x" * 300, "CON", "Halle Süd", f"{'x' * 63}-y"])
def test_any_title_gives_a_name(title: str, tmp_path: Path) -> None:
    assert name_fault(usable_name(title)) is None
    if len(title) < 200:
        (tmp_path / f"{title}.jsonl").write_text("")
        assert name_fault(dataset_name([tmp_path / f"{title}.jsonl"], None)) is None


@pytest.mark.parametrize("title", ["plant_7", "line-7", "a__b"])
def test_a_title_that_is_a_name_stays_as_it_is(title: str) -> None:
    assert usable_name(title) == title


@pytest.mark.parametrize("title", ["点检", "保全", "...", ""])
def test_a_title_of_which_nothing_is_left_is_refused(title: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name it with --dataset"):
        usable_name(title)
    if title.isalpha():
        (tmp_path / title).mkdir()
        with pytest.raises(UsageError, match=f"{title}.*name it with --dataset"):
            dataset_name([tmp_path / title], None)


@pytest.mark.parametrize("alias", ["champion", "Prod_2", "12", "v"])
def test_an_alias_or_a_number_is_taken(alias: str) -> None:
    assert require_alias(alias) == alias


@pytest.mark.parametrize("alias", ["", "../x", "a'b", "latest", "v12", "x" * 300, "a b"])
def test_what_can_be_no_alias_is_refused(alias: str) -> None:
    with pytest.raises(UsageError, match="neither an alias nor the number"):
        require_alias(alias)


def test_the_registry_refuses_names_before_it_asks_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    models.connect(tmp_path)
    for refused in (
        lambda: models.resolve("a' or name = 'b", "champion"),
        lambda: models.resolve("../../evil", 1),
        lambda: models.resolve("plant", "a'b"),
        lambda: models.promote("plant/line7", 1),
        lambda: models.rollback(""),
        lambda: models.alias_history("x" * 300),
        lambda: models.note_promotion_by_hand("a b"),
    ):
        with pytest.raises(UsageError, match=r"is no name|neither an alias"):
            refused()
    with pytest.raises(UsageError, match="has no version 1000000000000000000000"):
        models.resolve("plant", 10**21)
