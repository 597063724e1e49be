"""The architectures that go through this exporter; one description each, found by config.json or by GGUF file."""

from registry.errors import UsageError
from tasks.gguf_export.architectures.base import (
    EMBEDDING,
    MAX_LAYERS,
    OUTPUT,
    Architecture,
    Config,
    Fields,
    Key,
    Layout,
    Model,
    is_norm,
)
from tasks.gguf_export.architectures.gemma3 import GEMMA3
from tasks.gguf_export.files import shown

__all__ = [
    "ARCHITECTURES",
    "EMBEDDING",
    "MAX_LAYERS",
    "OUTPUT",
    "Architecture",
    "Config",
    "Fields",
    "Key",
    "Layout",
    "Model",
    "architecture_of_file",
    "describe",
    "is_norm",
]

ARCHITECTURES = (GEMMA3,)


def describe(config: Config) -> Model:
    """The model of a config.json.

    Raises UsageError for another architecture, or where llama.cpp would compute something else.
    """
    model_type = config.get("model_type")
    for architecture in ARCHITECTURES:
        if architecture.model_type == model_type:
            return Model(architecture, architecture.fields(config))
    supported = ", ".join(architecture.model_type for architecture in ARCHITECTURES)
    raise UsageError(f"the model type is {shown(model_type)}; only {supported} can be converted.")


def architecture_of_file(name: object) -> Architecture | None:
    """The architecture that a GGUF file calls ``name``; None for one that is not described here."""
    return next((architecture for architecture in ARCHITECTURES if architecture.gguf == name), None)
