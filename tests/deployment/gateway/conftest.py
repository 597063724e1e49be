import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gateways import gateway, source_of
from learnt_model import learnt_gguf, learnt_model_dir, plant_labels, plant_records

from deployment.answers.rules import learn_rules
from registry.records import LabelSet, Record, label_set_toml

__all__ = ["learnt_gguf", "learnt_model_dir", "plant_labels", "plant_records"]


@pytest.fixture(scope="package")
def model(
    tmp_path_factory: pytest.TempPathFactory, learnt_gguf: Path, plant_labels: LabelSet, plant_records: list[Record]
) -> Path:
    """A file with its label set and its rules beside it."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "labels.toml").write_text(label_set_toml(plant_labels))
    (folder / "answers.json").write_text(learn_rules(plant_records, plant_labels).model_dump_json())
    return Path(shutil.copy(learnt_gguf, folder))


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="package")
def client(model: Path, home: Path) -> Iterator[httpx.Client]:
    """A client of a gateway before the learnt model."""
    with gateway(source_of(model), home) as client:
        yield client
