from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gateways import gateway, source_of
from learnt_model import doubting, learnt_gguf, learnt_model_dir, model, plant_labels, plant_records

__all__ = ["doubting", "learnt_gguf", "learnt_model_dir", "model", "plant_labels", "plant_records"]


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="package")
def client(model: Path, home: Path) -> Iterator[httpx.Client]:
    """A client of a gateway before the learnt model."""
    with gateway(source_of(model), home) as client:
        yield client
