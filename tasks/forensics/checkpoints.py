"""Opens what holds weights: a Hugging Face folder (safetensors), a PEFT adapter folder or a GGUF file.

Where the base that an adapter names is a local folder, the tensors are those of the merged model, else the
adapter's own.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from registry.errors import UsageError
from tasks.checkpoints.adapters import (
    adapter_names,
    is_lora,
    matrices_of,
    read_adapter_config,
    require_pairs,
    require_whole_lora,
)
from tasks.checkpoints.base_layers import base_layers, base_layers_of_file
from tasks.checkpoints.checkpoint import Checkpoint as SafetensorsFolder
from tasks.checkpoints.checkpoint import stored_types
from tasks.checkpoints.files import read_json
from tasks.checkpoints.folders import CONFIG_FILE, adapter_weights, is_adapter, is_model_folder
from tasks.checkpoints.names import naming
from tasks.checkpoints.source import require_described
from tasks.forensics.names import name_from_gguf
from tasks.gguf.container import GgufFile

logger = logging.getLogger(__name__)

_CHUNK_ENTRIES = 1 << 18  # 1 MB of float32: stays in the processor's cache from one figure to the next
_UNMERGED = ("use_dora", "alpha_pattern", "fan_in_fan_out")  # adapter settings that need peft itself


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor in a file. A row is its last axis; ``rows(start, stop)`` reads some as float32 of rank 2."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    rows: Callable[[int, int], np.ndarray]

    @property
    def entries(self) -> int:
        return math.prod(self.shape)

    @property
    def row_count(self) -> int:
        return math.prod(self.shape[:-1])

    def chunks(self) -> Iterator[np.ndarray]:
        """All entries in order, in flat and contiguous chunks of whole rows."""
        step = max(1, _CHUNK_ENTRIES // self.shape[-1])
        for start in range(0, self.row_count, step):
            yield np.ascontiguousarray(self.rows(start, min(start + step, self.row_count))).reshape(-1)

    def whole(self) -> np.ndarray:
        """All entries as float32 of rank 2."""
        return self.rows(0, self.row_count)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What was found at a path.

    ``stores_gain`` says that a norm is stored as the gain itself, whatever the architecture adds to the
    weight in Hugging Face's convention; ``base_layers`` which layers of its base a model has that lost some.
    """

    format: str
    architecture: str
    tensors: tuple[StoredTensor, ...]
    stores_gain: bool = False
    base_layers: tuple[int, ...] | None = None


@contextmanager
def open_checkpoint(path: Path) -> Iterator[Checkpoint]:
    """Open the model at ``path``; its tensors can be read while the ``with`` block runs.

    Raises UsageError where there is no model, or one that is not sound.
    """
    if path.is_file():
        with GgufFile(path) as file:
            yield _from_gguf(file)
    elif is_adapter(path):
        with _adapter(path) as checkpoint:
            yield checkpoint
    elif is_model_folder(path):
        with _folder(path) as checkpoint:
            yield checkpoint
    else:
        raise UsageError(f"{path} is no model: give a .gguf file, or a folder with config.json or adapter_config.json.")


def _from_gguf(file: GgufFile) -> Checkpoint:
    architecture = str(file.metadata.get("general.architecture", "unknown"))
    tensors = [
        StoredTensor(
            name=name_from_gguf(name, architecture),
            shape=tensor.shape,
            dtype=tensor.type.name,
            rows=lambda start, stop, name=name: file.rows(name, start, stop),
        )
        for name, tensor in file.tensors.items()
    ]
    return Checkpoint(
        format="gguf",
        architecture=architecture,
        tensors=tuple(tensors),
        stores_gain=True,
        base_layers=base_layers_of_file(file.metadata),
    )


@contextmanager
def _folder(path: Path) -> Iterator[Checkpoint]:
    config = read_json(path / CONFIG_FILE)
    architecture = str(config.get("model_type", "unknown"))
    require_described(path, config)
    with SafetensorsFolder(path) as files:
        files.rename(naming(config, all_parts=True))
        tensors = [
            StoredTensor(
                name=name,
                shape=tensor.shape,
                dtype=tensor.dtype,
                rows=lambda start, stop, name=name: files.rows(name, start, stop),
            )
            for name, tensor in files.tensors.items()
        ]
        yield Checkpoint(
            format="safetensors",
            architecture=architecture,
            tensors=tuple(tensors),
            base_layers=base_layers(config),
        )


@contextmanager
def _adapter(path: Path) -> Iterator[Checkpoint]:
    config = read_adapter_config(path)
    own = _adapter_tensors(adapter_weights(path))
    base_path = Path(str(config.get("base_model_name_or_path") or ""))
    if not (base_path / CONFIG_FILE).is_file():
        logger.warning("the base %s is no local folder: only the adapter's own tensors are read", base_path)
        own = _renamed(own, adapter_names(path, own, {}))
        if is_lora(config):
            require_pairs(path, own)
        tensors = [_in_memory(name, tensor) for name, tensor in own.items()]
        yield Checkpoint(format="adapter", architecture="unknown", tensors=tuple(tensors))
        return
    unmerged = [key for key in _UNMERGED if config.get(key)]
    if unmerged or not is_lora(config):
        found = unmerged[0] if unmerged else config["peft_type"]
        raise UsageError(f"{path} uses {found}, which only peft can merge; merge it into its base first.")
    base_config = read_json(base_path / CONFIG_FILE)
    own = _renamed(own, adapter_names(path, own, base_config))
    with _folder(base_path) as base:
        text_name = naming(base_config)
        matrices = matrices_of({tensor.name: tensor.shape for tensor in base.tensors if text_name(tensor.name)})
        require_whole_lora(path, config, {name: values.shape for name, values in own.items()}, matrices)
        merged = tuple(_merged(tensor, own, config) for tensor in base.tensors)
        if own:
            raise UsageError(f"{path} changes {next(iter(own))}, which {base_path} lacks; is that its base?")
        yield replace(base, format="adapter", tensors=merged)


def _adapter_tensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    stored_types(path)  # tells float8 as such
    try:
        return {name: tensor.float().numpy() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is not a sound safetensors file: {error}. Save the adapter again.") from error


def _renamed(tensors: dict[str, np.ndarray], names: dict[str, str]) -> dict[str, np.ndarray]:
    return {name: tensors[stored] for stored, name in names.items()}


def _in_memory(name: str, values: np.ndarray) -> StoredTensor:
    rows = values.reshape(-1, values.shape[-1])
    return StoredTensor(name=name, shape=values.shape, dtype="adapter", rows=lambda start, stop: rows[start:stop])


def _merged(tensor: StoredTensor, own: dict[str, np.ndarray], config: dict[str, Any]) -> StoredTensor:
    """``tensor`` as the adapter changes it, ``W + scale · B A``; what is used is taken out of ``own``."""
    if tensor.name in own:
        return _in_memory(tensor.name, own.pop(tensor.name))
    module = tensor.name.removesuffix(".weight")
    if f"{module}.lora_A.weight" in own:
        down, up = (own.pop(f"{module}.lora_{side}.weight") for side in "AB")
    elif f"{module}.lora_embedding_A" in own:  # transposed, as a lookup takes columns of A
        up, down = (own.pop(f"{module}.lora_embedding_{side}").T for side in "AB")
    else:
        return tensor
    rank = down.shape[0]
    scale = np.float32(config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank))

    def rows(start: int, stop: int) -> np.ndarray:
        return tensor.rows(start, stop) + (up[start:stop] @ down) * scale

    return replace(tensor, dtype=f"{tensor.dtype}+LoRA", rows=rows)
