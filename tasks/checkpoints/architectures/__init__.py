"""The architectures that go through this exporter; one description each, found by config.json or by GGUF file."""

import re
from collections.abc import Mapping

from registry.errors import UsageError
from tasks.checkpoints.architectures.base import (
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
from tasks.checkpoints.architectures.gemma3 import GEMMA3
from tasks.checkpoints.architectures.llama import LLAMA
from tasks.checkpoints.architectures.phi3 import PHI3
from tasks.checkpoints.architectures.qwen import QWEN2, QWEN3
from tasks.checkpoints.files import shown

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
    "is_other_part",
    "text_config",
    "text_name",
]

ARCHITECTURES = (GEMMA3, LLAMA, QWEN2, QWEN3, PHI3)
_OUTER = ("tie_word_embeddings", "quantization_config", "bos_token_id", "eos_token_id", "pad_token_id")
_TEXT_PART = re.compile(
    r"(?:language_model\.model|model\.language_model|(?P<head>(?:language_model\.)?lm_head))\.(?P<rest>.+)"
)
_OTHER_PART = re.compile(r"(?:model\.)?(?:vision_tower|multi_modal_projector)\.")


def describe(config: Config) -> Model:
    """The model of a config.json.

    Raises UsageError for another architecture, or where llama.cpp would compute something else.
    """
    config = text_config(config)
    model_type = config.get("model_type")
    for architecture in ARCHITECTURES:
        if architecture.model_type == model_type:
            return Model(architecture, architecture.fields(config))
    supported = ", ".join(architecture.model_type for architecture in ARCHITECTURES)
    raise UsageError(f"the model type is {shown(model_type)}; only {supported} can be converted.")


def text_config(config: Config) -> Config:
    """The config of a multimodal model's text part; any other config as it is."""
    for architecture in ARCHITECTURES:
        if config.get("model_type") == architecture.wrapper is not None:
            inner = config.get("text_config")
            if (
                not isinstance(inner, Mapping)
                or inner.get("model_type", architecture.model_type) != architecture.model_type
            ):
                raise UsageError(
                    f"config.json of a {architecture.wrapper} has no text_config of {architecture.model_type}."
                )
            outer = {key: value for key, value in config.items() if key in _OUTER}
            return {**inner, **outer, "model_type": architecture.model_type}
    return config


def text_name(name: str) -> str:
    """The name that a tensor of a multimodal model's text part has in a model of text alone; any other as it is.

    Older checkpoints say ``language_model.model.layers``, newer ones ``model.language_model.layers``.
    """
    match = _TEXT_PART.fullmatch(name)
    return f"{'lm_head' if match['head'] else 'model'}.{match['rest']}" if match else name


def is_other_part(name: str) -> bool:
    """Whether a tensor of a multimodal model is of what turns pictures into tokens."""
    return _OTHER_PART.match(name) is not None


def architecture_of_file(name: object) -> Architecture | None:
    """The architecture that a GGUF file calls ``name``; None for one that is not described here."""
    return next((architecture for architecture in ARCHITECTURES if architecture.gguf == name), None)
