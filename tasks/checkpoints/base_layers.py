"""Which layers of its base a model has that lost some, as its config.json and its GGUF file say.

Without them layer 7 of one model could be compared with layer 9 of another.
"""

from collections.abc import Mapping
from typing import Any

from registry.errors import UsageError
from tasks.checkpoints.files import shown

CONFIG_KEY = "base_layers"
FILE_KEY = "gemmill.base_layers"  # a text, as all provenance is: the numbers with commas between them


def base_layers(config: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The numbers that the layers of this config.json have in the base; None where none were dropped.

    Raises UsageError unless they ascend and are as many as the layers.
    """
    found = config.get(CONFIG_KEY)
    if found is None:
        return None
    sound = isinstance(found, list) and all(type(number) is int and number >= 0 for number in found)
    if not sound or found != sorted(set(found)) or len(found) != config.get("num_hidden_layers"):
        raise UsageError(f"config.json has {CONFIG_KEY} = {shown(found)}; one ascending number for each layer belongs.")
    return tuple(found)


def base_layers_of_file(metadata: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The same of the metadata of a GGUF file."""
    text = metadata.get(FILE_KEY)
    if text is None:
        return None
    numbers = [int(part) if part.isdecimal() else -1 for part in str(text).split(",")]
    layers = metadata.get(f"{metadata.get('general.architecture')}.block_count")
    return base_layers({CONFIG_KEY: numbers, "num_hidden_layers": layers})


def as_text(layers: tuple[int, ...]) -> str:
    return ",".join(map(str, layers))
