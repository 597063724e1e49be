"""The tiny real model's adapter, and copies of folders to be damaged."""

import shutil
from pathlib import Path

import pytest
from torch_models import Copy, make_adapter
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="session")
def adapter_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two modules in each of the two layers, without a tokenizer of its own."""
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    return make_adapter(base, tmp_path_factory.mktemp("adapters") / "adapter")


@pytest.fixture
def copy_of(tmp_path: Path) -> Copy:
    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / folder.name))

    return copy
