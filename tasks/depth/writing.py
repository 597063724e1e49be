"""A Hugging Face folder with some layers of another, streamed: tensors keep the bytes that they had."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from tasks.checkpoints.base_layers import CONFIG_KEY, base_layers
from tasks.checkpoints.checkpoint import safetensors_header
from tasks.checkpoints.files import VOCABULARY_MAP
from tasks.checkpoints.source import open_source
from tasks.depth.loss import Layers
from tasks.training.models import copy_tokenizer

_LAYER = re.compile(r"(model\.layers\.)(\d+)(\..+)")
_COPIED = ("generation_config.json", "chat_template.jinja", VOCABULARY_MAP, "README.md", "LICENSE", "NOTICE")


def write_layers(model_dir: Path, folder: Path, kept: Layers, kinds: Sequence[str] | None) -> None:
    """Write the model in ``model_dir`` with the layers ``kept`` into ``folder``.

    Args:
        kinds: of attention, of each layer of the whole model; None for an architecture with one kind.
    """
    with open_source(model_dir) as source, (folder / "model.safetensors").open("wb") as stream:
        checkpoint = source.checkpoint
        checkpoint.rename(lambda name: _new_name(name, kept))
        tensors = checkpoint.tensors
        stream.write(safetensors_header({name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}))
        for name in tensors:
            for chunk in checkpoint.raw_chunks(name):
                stream.write(chunk)
    numbers = base_layers(source.config)
    config = {
        **source.config,
        "num_hidden_layers": len(kept),
        CONFIG_KEY: [numbers[layer] if numbers else layer for layer in kept],
        **({"layer_types": [kinds[layer] for layer in kept]} if kinds else {}),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    copy_tokenizer(model_dir, folder)
    for name in _COPIED:
        if (model_dir / name).is_file():
            shutil.copy2(model_dir / name, folder / name)


def _new_name(name: str, kept: Layers) -> str | None:
    match = _LAYER.fullmatch(name)
    if match is None:
        return name
    layer = int(match[2])
    return f"{match[1]}{kept.index(layer)}{match[3]}" if layer in kept else None
