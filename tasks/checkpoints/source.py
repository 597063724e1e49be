"""A Hugging Face folder as a file is made of it: the text part's config, its model and its tensors."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from registry.errors import UsageError
from tasks.checkpoints.architectures import EMBEDDING, OUTPUT, Config, Model, describe, text_config
from tasks.checkpoints.checkpoint import Checkpoint
from tasks.checkpoints.files import read_json
from tasks.checkpoints.names import naming
from tasks.checkpoints.whole import require_tensors

_ROWS_AT_ONCE = 256  # of the embedding, whose rows are long


@dataclass(frozen=True, kw_only=True)
class Source:
    folder: Path
    config: Config
    model: Model
    checkpoint: Checkpoint  # exactly the tensors of ``model``


def read_text_config(folder: Path) -> Config:
    """config.json of a whole model of text alone, which is what can be pruned.

    Raises UsageError for a multimodal model, an adapter, or where there is no Hugging Face folder.
    """
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is no Hugging Face folder of a whole model; import a .gguf file, merge an adapter.")
    config = read_json(folder / "config.json")
    if text_config(config) is not config:
        raise UsageError(f"{folder} is a multimodal model; take a folder of its text part alone.")
    return config


@contextmanager
def open_source(folder: Path) -> Iterator[Source]:
    """The model in ``folder``, open while the ``with`` block runs.

    Raises UsageError where a file is unsound, the architecture another, the model one that llama.cpp would not compute,
    or the checkpoint without exactly the tensors that config.json asks for.
    """
    whole = read_json(folder / "config.json")
    config = text_config(whole)
    model = describe(config)
    with Checkpoint(folder) as checkpoint:
        checkpoint.rename(naming(whole))
        model = _tied_as_stored(model, checkpoint)
        require_tensors(
            folder, model.tensor_shapes, {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
        )
        yield Source(folder=folder, config=config, model=model, checkpoint=checkpoint)


def require_described(folder: Path, config: Config) -> None:
    """Raises UsageError where the folder of an architecture that is known here has not exactly its tensors.

    A model of another one, or one that llama.cpp would not compute, is not looked at.
    """
    try:
        model = describe(config)
    except UsageError:
        return
    with Checkpoint(folder) as checkpoint:
        checkpoint.rename(naming(config))
        found = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    require_tensors(folder, (_untied(model) if OUTPUT in found else model).tensor_shapes, found)


def _untied(model: Model) -> Model:
    return replace(model, fields={**model.fields, "tie_word_embeddings": False})


def _tied_as_stored(model: Model, checkpoint: Checkpoint) -> Model:
    """As transformers loads it: an output matrix in the checkpoint counts, whatever config.json says, unless it is the
    embedding once more."""
    if OUTPUT not in checkpoint.tensors:
        return model
    if not _same(checkpoint, OUTPUT, EMBEDDING):
        return _untied(model)
    checkpoint.rename(lambda name: None if name == OUTPUT else name)
    return replace(model, fields={**model.fields, "tie_word_embeddings": True})


def _same(checkpoint: Checkpoint, one: str, other: str) -> bool:
    shape = checkpoint.tensors[one].shape
    if other not in checkpoint.tensors or checkpoint.tensors[other].shape != shape:
        return False
    for start in range(0, shape[0], _ROWS_AT_ONCE):
        rows = start, min(start + _ROWS_AT_ONCE, shape[0])
        if not np.array_equal(checkpoint.rows(one, *rows), checkpoint.rows(other, *rows)):
            return False
    return True
