"""Gemma-shaped checkpoints of random numbers with norm outliers, made without transformers."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gemma_shaped import CONFIG, OUTLIER
from safetensors.numpy import save_file

from tasks.checkpoints.architectures import describe


@pytest.fixture(scope="session")
def weights() -> dict[str, np.ndarray]:
    """Hugging Face name -> float32; one gain is 1,657 as in the real base."""
    generator = np.random.default_rng(7)
    tensors = {
        name: generator.normal(0.5 if len(shape) == 1 else 0.0, 0.1, shape).astype(np.float32)
        for name, shape in describe(CONFIG).tensor_shapes.items()
    }
    tensors[OUTLIER][11] = 1656.0
    return tensors


WriteFolder = Callable[..., Path]


@pytest.fixture
def write_folder(tmp_path: Path) -> WriteFolder:
    """Write tensors as a Hugging Face folder."""

    def write(tensors: dict[str, np.ndarray], name: str = "model", **config) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(CONFIG | config))
        save_file(tensors, folder / "model.safetensors")
        return folder

    return write


@pytest.fixture
def folder(write_folder: WriteFolder, weights: dict[str, np.ndarray]) -> Path:
    return write_folder(weights)
