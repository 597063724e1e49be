"""What a folder holds: a whole model or a PEFT adapter, its weights as safetensors and never as pickles."""

from collections.abc import Mapping
from pathlib import Path

from registry.errors import UsageError
from tasks.checkpoints.files import read_json, shown

CONFIG_FILE, ADAPTER_CONFIG_FILE = "config.json", "adapter_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
_WEIGHTS, _ADAPTER_WEIGHTS = "model.safetensors", "adapter_model.safetensors"
_INDEX = f"{_WEIGHTS}.index.json"
_PICKLES = ("pytorch_model*.bin", "model*.bin", "adapter_model.bin", "consolidated*.pth", "*.pt", "*.pth", "*.ckpt")
_TRAINING_STATE = ("optimizer", "scheduler", "rng_state", "scaler")  # how the pickles of a training begin


def is_adapter(folder: Path) -> bool:
    """Whether ``folder`` is a PEFT adapter, whatever else is in it."""
    return (folder / ADAPTER_CONFIG_FILE).is_file()


def is_model_folder(folder: Path) -> bool:
    """Whether ``folder`` looks like a Hugging Face model or a PEFT adapter."""
    return (folder / CONFIG_FILE).is_file() or is_adapter(folder)


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def weight_files(folder: Path) -> list[Path]:
    """The single file of a whole model or, as transformers prefers them, the shards that an index names.

    Raises UsageError where ``folder`` is an adapter, holds pickles only, or its index is unsound.
    """
    if is_adapter(folder):
        raise UsageError(f"{folder} is a PEFT adapter; merge it into its base first, then take the result.")
    single, index = folder / _WEIGHTS, folder / _INDEX
    if single.exists() or not index.exists():
        return [_unpickled(single)]
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, Mapping) or not all(isinstance(name, str) for name in weight_map.values()):
        raise UsageError(f"{index} has no sound weight_map; save the checkpoint again.")
    names = sorted(set(weight_map.values()))
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise UsageError(f"{index} names {shown(outside[0])}, which is not a file of this folder.")
    return [folder / name for name in names]


def adapter_weights(folder: Path) -> Path:
    """The weights of an adapter. Raises UsageError where they are a pickle."""
    return _unpickled(folder / _ADAPTER_WEIGHTS)


def _unpickled(path: Path) -> Path:
    """``path``; where it is missing, the reader's own error says so, unless pickles lie in its place."""
    if path.exists():
        return path
    pickles = sorted(found.name for pattern in _PICKLES for found in path.parent.glob(pattern))
    weights = [name for name in pickles if not name.startswith(_TRAINING_STATE)]
    if weights:
        raise UsageError(
            f"{path.parent} has no {path.name}, only {shown(weights[0])}: a pickle can run any code when it is read; "
            "load it where you trust it and save it as safetensors."
        )
    return path
