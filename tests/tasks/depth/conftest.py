"""A small Gemma 3 deep enough to have layers of both kinds to spare."""

from pathlib import Path

import pytest

from registry.records import LabelSet, Record
from tasks.bases.scratch import build_scratch_base
from tasks.bases.spec import ScratchBase


@pytest.fixture(scope="session")
def deep_model_dir(tmp_path_factory: pytest.TempPathFactory, records: list[Record], labels: LabelSet) -> Path:
    """Thirteen layers with random weights, the sixth and the twelfth of global attention; copy it to change it."""
    spec = ScratchBase(
        kind="scratch", vocab_size=448, hidden_size=64, intermediate_size=64, layers=13, heads=2, kv_heads=1,
        head_dim=32, seed=2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("deep") / "model"
    build_scratch_base(spec, records, labels, folder)
    return folder
