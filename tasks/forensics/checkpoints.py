"""Finds the weights at a path: a Hugging Face folder (safetensors), a PEFT adapter folder or a GGUF file.

Where the base that an adapter names is a local folder, the tensors are those of the merged model, else the
adapter's own.
"""

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from registry.errors import UsageError
from tasks.forensics.gguf_checkpoint import read_gguf
from tasks.forensics.names import plain_name
from tasks.forensics.stored import Checkpoint, StoredTensor, read_bytes, read_json

logger = logging.getLogger(__name__)

_STORED_AS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_UNMERGED = ("use_dora", "alpha_pattern", "fan_in_fan_out")  # adapter settings that need peft itself
_ADAPTER_PREFIX = "base_model.model."


def read_checkpoint(path: Path) -> Checkpoint:
    """List the tensors at ``path``; their entries are read later. Raises UsageError where it is not sound."""
    if path.is_file():
        return read_gguf(path)
    if (path / "adapter_config.json").is_file():
        return _read_adapter(path)
    if (path / "config.json").is_file():
        return _read_folder(path)
    raise UsageError(
        f"{path} is no model: give a .gguf file, or a folder with config.json or adapter_config.json."
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a Hugging Face folder. Raises UsageError where one is missing."""
    index_path = folder / "model.safetensors.index.json"
    if not index_path.is_file():
        single = folder / "model.safetensors"
        if not single.is_file():
            raise UsageError(f"{folder} has no model.safetensors; convert other weight formats to it first.")
        return [single]
    shards = read_json(index_path).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UsageError(f"{index_path} has no weight_map. Save or copy the model again.")
    paths = [folder / Path(str(name)).name for name in sorted(set(shards.values()))]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise UsageError(
            f"{folder} lacks {len(missing)} of {len(paths)} shards, {missing[0]} first. Copy it again."
        )
    return paths


def _read_folder(folder: Path) -> Checkpoint:
    tensors, skipped = _read_safetensors(weight_files(folder))
    return Checkpoint(
        format="safetensors",
        architecture=str(read_json(folder / "config.json").get("model_type", "unknown")),
        tensors=tuple(tensors),
        skipped=tuple(skipped),
    )


def _read_safetensors(paths: list[Path]) -> tuple[list[StoredTensor], list[str]]:
    tensors, skipped = [], []
    for path in paths:
        for name, entry, start in _entries(path):
            if entry["dtype"] in _STORED_AS:
                tensors.append(_stored(path, plain_name(name), entry, start))
            else:
                skipped.append(f"{plain_name(name)} ({entry['dtype']})")
    if skipped:
        logger.warning("%d tensors without float weights are left out, %s first", len(skipped), skipped[0])
    return tensors, skipped


def _entries(path: Path) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Name, header entry and first byte of every tensor in a file that safetensors itself accepts."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"), path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is no sound safetensors file: {error}. Save or copy it again.") from error
    header.pop("__metadata__", None)
    for name, entry in header.items():
        yield name, entry, 8 + length + entry["data_offsets"][0]


def _stored(path: Path, name: str, entry: dict[str, Any], start: int) -> StoredTensor:
    shape, stored_as = tuple(entry["shape"]), np.dtype(_STORED_AS[entry["dtype"]])
    row_bytes = math.prod(shape[1:]) * stored_as.itemsize

    def rows(first: int, last: int) -> np.ndarray:
        entries = read_bytes(path, start + first * row_bytes, (last - first) * row_bytes).view(stored_as)
        if entry["dtype"] == "BF16":  # the upper half of a float32
            entries = (entries.astype("<u4") << 16).view("<f4")
        return entries.astype(np.float32, copy=False).reshape(last - first, *shape[1:])

    return StoredTensor(name=name, shape=shape, dtype=entry["dtype"], rows=rows)


def _read_adapter(folder: Path) -> Checkpoint:
    config = read_json(folder / "adapter_config.json")
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise UsageError(
            f"{folder} has no adapter_model.safetensors; save the adapter again with safetensors."
        )
    parts, skipped = _read_safetensors([weights])
    base_folder = Path(str(config.get("base_model_name_or_path") or ""))
    if not (base_folder / "config.json").is_file():
        logger.warning("the base %s is no local folder: only the adapter's own tensors are read", base_folder)
        return Checkpoint(
            format="adapter", architecture="unknown", tensors=tuple(parts), skipped=tuple(skipped)
        )
    unmerged = [key for key in _UNMERGED if config.get(key)]
    if unmerged:
        raise UsageError(
            f"{folder} uses {unmerged[0]}, which only peft can merge; merge it into its base first."
        )
    base = _read_folder(base_folder)
    own = {part.name.removeprefix(_ADAPTER_PREFIX): part for part in parts}
    tensors = tuple(_merged(tensor, own, config) for tensor in base.tensors)
    if own:
        raise UsageError(f"{folder} changes {next(iter(own))}, which {base_folder} lacks; is that its base?")
    return replace(base, format="adapter", tensors=tensors, skipped=(*base.skipped, *skipped))


def _merged(tensor: StoredTensor, own: dict[str, StoredTensor], config: dict[str, Any]) -> StoredTensor:
    """``tensor`` as the adapter changes it, ``W + scale · B A``; what is used is taken out of ``own``."""
    if replacement := own.pop(tensor.name, None):
        return replace(replacement, name=tensor.name)
    module = tensor.name.removesuffix(".weight")
    if f"{module}.lora_A.weight" in own:
        down, up = (_whole(own.pop(f"{module}.lora_{side}.weight")) for side in "AB")
    elif f"{module}.lora_embedding_A" in own:  # transposed: the lookup is x A, not A x
        up, down = (_whole(own.pop(f"{module}.lora_embedding_{side}")).T for side in "AB")
    else:
        return tensor
    rank = down.shape[0]
    scale = np.float32(config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank))

    def rows(first: int, last: int) -> np.ndarray:
        return tensor.rows(first, last) + (up[first:last] @ down) * scale

    return replace(tensor, dtype=f"{tensor.dtype}+LoRA", rows=rows)


def _whole(tensor: StoredTensor) -> np.ndarray:
    return tensor.rows(0, tensor.shape[0])
