"""The metadata of a Gemma 3 GGUF file: upstream's names, values, types and order, then where it came from.

Follows ``Gemma3Model`` of llama.cpp's convert_hf_to_gguf.py. What that converter turns into a wrong model
without a word is refused here.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

from gguf.constants import GGML_QUANT_VERSION, GGUFValueType, LlamaFileType
from gguf.utility import size_label

from registry.errors import UsageError
from tasks.gguf_export.container import KeyValue
from tasks.gguf_export.names import tensor_shapes
from tasks.gguf_export.tokenizer import Vocabulary
from tasks.quant.types import QuantType

ARCHITECTURE = "gemma3"
GLOBAL_PERIOD = 6  # llama.cpp assumes five local layers and one global
MAX_LAYERS = 512  # LLAMAMAX_LAYERS
_PROVENANCE = ("general.", "gemmill.")
LICENCE_KEYS = {  # by their names in a model card
    "license": "general.license",
    "license_name": "general.license.name",
    "license_link": "general.license.link",
}
_FILE_TYPES = {
    QuantType.F32: LlamaFileType.ALL_F32,
    **{type_: LlamaFileType[f"MOSTLY_{type_.name}"] for type_ in QuantType if type_ is not QuantType.F32},
}
_NUMBERS = (
    "num_hidden_layers",
    "max_position_embeddings",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "sliding_window",
    "vocab_size",
)


def layer_types(layers: int) -> list[str]:
    """Gemma 3's pattern: every sixth layer attends to the whole context."""
    return ["sliding_attention" if (layer + 1) % GLOBAL_PERIOD else "full_attention" for layer in range(layers)]


def check_config(config: Mapping[str, Any]) -> None:
    """Raise UsageError where llama.cpp would compute something else than the model of this config.json."""
    if config.get("model_type") != "gemma3_text":
        raise UsageError(f"the model type is {config.get('model_type')!r}; only gemma3_text can be converted.")
    for key in _NUMBERS:
        if type(config.get(key)) is not int or not 0 < config[key] < 2**31:
            raise UsageError(f"config.json has {key} = {config.get(key)!r} where a positive whole number belongs.")
    epsilon = config.get("rms_norm_eps")
    if type(epsilon) is not float or not 0 < epsilon < 1:
        raise UsageError(f"config.json has rms_norm_eps = {epsilon!r} where a small positive number belongs.")
    layers = config["num_hidden_layers"]
    if layers > MAX_LAYERS:
        raise UsageError(f"config.json has num_hidden_layers = {layers}, more than llama.cpp's {MAX_LAYERS}.")
    period = config.get("sliding_window_pattern", GLOBAL_PERIOD)
    if config.get("layer_types", layer_types(layers)) != layer_types(layers) or period != GLOBAL_PERIOD:
        raise UsageError(
            "layer_types in config.json must be five sliding_attention and one full_attention in turn, "
            "which is what llama.cpp assumes for gemma3."
        )
    if config.get("query_pre_attn_scalar", 256) != config["head_dim"]:
        raise UsageError(
            f"query_pre_attn_scalar is {config.get('query_pre_attn_scalar', 256)} but head_dim is "
            f"{config['head_dim']}; llama.cpp scales gemma3 by head_dim, so the two must be equal."
        )
    for key, needed in (
        ("tie_word_embeddings", True),
        ("hidden_activation", "gelu_pytorch_tanh"),
        ("attention_bias", False),
        ("use_bidirectional_attention", False),
        ("attn_logit_softcapping", None),
        ("final_logit_softcapping", None),
        ("quantization_config", None),
    ):
        if key in config and config[key] != needed and (config[key] or needed):
            raise UsageError(f"config.json has {key} = {config[key]!r}; only {needed!r} can be converted.")


def rope_thetas(config: Mapping[str, Any]) -> tuple[float, float]:
    """The base frequencies of global and local layers, from ``rope_parameters`` or the older two fields."""
    parameters = config.get("rope_parameters")
    if parameters is None and config.get("rope_scaling") is None:
        thetas = config.get("rope_theta", 1_000_000.0), config.get("rope_local_base_freq", 10_000.0)
    else:
        thetas = _theta(parameters, "full_attention"), _theta(parameters, "sliding_attention")
    if not all(type(theta) in (int, float) and theta > 0 for theta in thetas):
        raise UsageError(f"config.json has the rope base frequencies {thetas}; both must be positive numbers.")
    return float(thetas[0]), float(thetas[1])


def _theta(parameters: Any, attention: str) -> Any:
    rope = parameters.get(attention) if isinstance(parameters, Mapping) else None
    if not isinstance(rope, Mapping) or rope.get("rope_type") != "default":
        raise UsageError(
            f"config.json has no rope_parameters of type 'default' for {attention}; scaling is not written."
        )
    return rope.get("rope_theta")


def metadata(
    config: Mapping[str, Any],
    vocabulary: Vocabulary,
    *,
    weights: QuantType,
    name: str,
    sampling: Mapping[str, Any],
    chat_template: str | None,
    provenance: Mapping[str, str],
) -> list[KeyValue]:
    """All entries in upstream's order; ``provenance`` holds further ``general.*`` and ``gemmill.*`` texts.

    ``sampling`` is generation_config.json.
    """
    unknown = [key for key in provenance if not key.startswith(_PROVENANCE)]
    if unknown:
        raise UsageError(f"the provenance key {unknown[0]!r} begins with neither of {', '.join(_PROVENANCE)}.")
    further = {key: value for key, value in provenance.items() if key != "general.name"}
    licence = {key: further.pop(key) for key in LICENCE_KEYS.values() if key in further}
    entries = [
        *_general(config, name, sampling),
        *(_text(key, value) for key, value in licence.items()),
        *_architecture(config, weights),
        *_tokenizer(vocabulary, chat_template),
        *(_text(key, value) for key, value in further.items()),
    ]
    keys = [entry.key for entry in entries]
    if len(keys) != len(set(keys)):
        raise UsageError(f"the provenance sets {next(key for key in keys if keys.count(key) > 1)}, which is computed.")
    return entries


def _general(config: Mapping[str, Any], name: str, sampling: Mapping[str, Any]) -> list[KeyValue]:
    parameters = sum(prod(shape) for shape in tensor_shapes(config).values())
    kinds = {
        "top_k": GGUFValueType.INT32,
        "top_p": GGUFValueType.FLOAT32,
        "temperature": GGUFValueType.FLOAT32,
    }
    keys = {"top_k": "top_k", "top_p": "top_p", "temperature": "temp"}
    return [
        _text("general.architecture", ARCHITECTURE),
        _text("general.type", "model"),
        *(
            KeyValue(f"general.sampling.{keys[field]}", kind, sampling[field])
            for field, kind in kinds.items()
            if type(sampling.get(field)) in (int, float)
        ),
        _text("general.name", name),
        _text("general.size_label", size_label(parameters, 0, 0, 0)),
    ]


def _architecture(config: Mapping[str, Any], weights: QuantType) -> list[KeyValue]:
    global_theta, local_theta = rope_thetas(config)

    def number(key: str, field: str) -> KeyValue:
        return KeyValue(f"{ARCHITECTURE}.{key}", GGUFValueType.UINT32, config[field])

    def real(key: str, value: float) -> KeyValue:
        return KeyValue(f"{ARCHITECTURE}.{key}", GGUFValueType.FLOAT32, value)

    return [
        number("block_count", "num_hidden_layers"),
        number("context_length", "max_position_embeddings"),
        number("embedding_length", "hidden_size"),
        number("feed_forward_length", "intermediate_size"),
        number("attention.head_count", "num_attention_heads"),
        number("attention.head_count_kv", "num_key_value_heads"),
        real("rope.freq_base", global_theta),
        real("rope.freq_base_swa", local_theta),
        real("attention.layer_norm_rms_epsilon", config["rms_norm_eps"]),
        number("attention.key_length", "head_dim"),
        number("attention.value_length", "head_dim"),
        KeyValue("general.file_type", GGUFValueType.UINT32, int(_FILE_TYPES[weights])),
        number("attention.sliding_window", "sliding_window"),
        KeyValue("general.quantization_version", GGUFValueType.UINT32, GGML_QUANT_VERSION),
    ]


def _tokenizer(vocabulary: Vocabulary, chat_template: str | None) -> list[KeyValue]:
    def id_(key: str, value: int) -> KeyValue:
        return KeyValue(f"tokenizer.ggml.{key}_token_id", GGUFValueType.UINT32, value)

    def switch(key: str, on: bool) -> KeyValue:
        return KeyValue(f"tokenizer.ggml.{key}", GGUFValueType.BOOL, on)

    return [
        _text("tokenizer.ggml.model", "llama"),
        _text("tokenizer.ggml.pre", "default"),
        KeyValue("tokenizer.ggml.tokens", GGUFValueType.STRING, vocabulary.tokens),
        KeyValue("tokenizer.ggml.scores", GGUFValueType.FLOAT32, vocabulary.scores),
        KeyValue("tokenizer.ggml.token_type", GGUFValueType.INT32, vocabulary.types),
        id_("bos", vocabulary.bos),
        id_("eos", vocabulary.eos),
        id_("unknown", vocabulary.unknown),
        id_("padding", vocabulary.padding),
        switch("add_bos_token", True),
        switch("add_sep_token", False),
        switch("add_eos_token", False),
        *([_text("tokenizer.chat_template", chat_template)] if chat_template else []),
        switch("add_space_prefix", False),
    ]


def _text(key: str, value: str) -> KeyValue:
    return KeyValue(key, GGUFValueType.STRING, value)
