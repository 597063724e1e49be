"""What Llama, Qwen and Phi-3 have in common: one kind of layer, one rotary base frequency, RMS norms, a gated SiLU.

Each of them says what sets it apart; a config with more to it than that is refused.
"""

from collections.abc import Mapping
from typing import Any

from gguf.constants import GGUFValueType

from registry.errors import UsageError
from tasks.checkpoints.architectures.base import Config, Fields, Key, Shape
from tasks.checkpoints.architectures.fields import (
    check_widths,
    norm_epsilon,
    positive_number,
    positive_numbers,
    require,
    rope_theta,
    tied,
)
from tasks.checkpoints.files import shown

_ROPE_THETA = 10_000.0  # llama.cpp's and transformers' value where nothing names one
_NUMBERS = (
    "num_hidden_layers",
    "max_position_embeddings",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
_ONLY = {"hidden_act": "silu", "quantization_config": None}
_ROPE = {"rope_type", "type", "rope_theta", "factor", "partial_rotary_factor"}

BLOCK_COUNT = Key(name="block_count", field="num_hidden_layers")
CONTEXT_LENGTH = Key(name="context_length", field="max_position_embeddings")
EMBEDDING_LENGTH = Key(name="embedding_length", field="hidden_size")
FEED_FORWARD_LENGTH = Key(name="feed_forward_length", field="intermediate_size")
HEADS = (
    Key(name="attention.head_count", field="num_attention_heads"),
    Key(name="attention.head_count_kv", field="num_key_value_heads"),
)
ROPE_SCALING = (
    Key(name="rope.scaling.type", field="rope_scaling_type", type=GGUFValueType.STRING, optional=True),
    Key(name="rope.scaling.factor", field="rope_scaling_factor", type=GGUFValueType.FLOAT32, optional=True),
)
ROPE_THETA = Key(name="rope.freq_base", field="rope_theta", type=GGUFValueType.FLOAT32, default=_ROPE_THETA)
NORM_EPSILON = Key(name="attention.layer_norm_rms_epsilon", field="rms_norm_eps", type=GGUFValueType.FLOAT32)
ROPE_DIMENSIONS = Key(name="rope.dimension_count", field="rope_dimensions")
KEYS = (
    BLOCK_COUNT,
    CONTEXT_LENGTH,
    EMBEDDING_LENGTH,
    FEED_FORWARD_LENGTH,
    *HEADS,
    *ROPE_SCALING,
    ROPE_THETA,
    NORM_EPSILON,
    Key(name="attention.key_length", field="head_dim", optional=True),
    Key(name="attention.value_length", field="head_dim", optional=True),
)
TENSORS = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


def head_dim(fields: Fields) -> int:
    """The size of a head, which a config may leave to the hidden size."""
    return fields.get("head_dim") or fields["hidden_size"] // fields["num_attention_heads"]


def dense_fields(config: Config, *, only: Mapping[str, Any]) -> Fields:
    """The fields of :data:`KEYS`; ``only`` is what else a config must not say otherwise.

    Raises UsageError for a number that is missing or impossible, and for what llama.cpp does not compute.
    """
    require(config, {**_ONLY, **only})
    kinds = config.get("layer_types") or []
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise UsageError(f"config.json has layer_types {shown(kinds)}; only layers of full attention can be converted.")
    if config.get("num_key_value_heads") is None:
        config = {**config, "num_key_value_heads": config.get("num_attention_heads")}
    fields = positive_numbers(config, _NUMBERS)
    if config.get("head_dim") is not None:
        fields |= positive_numbers(config, ["head_dim"])
    elif fields["hidden_size"] % fields["num_attention_heads"]:
        raise UsageError(
            f"config.json has a hidden_size of {fields['hidden_size']}, no multiple of its "
            f"{fields['num_attention_heads']} heads, and no head_dim."
        )
    check_widths(fields, head_dim(fields))
    fields["rms_norm_eps"] = norm_epsilon(config)
    fields["tie_word_embeddings"] = tied(config, default=False)
    return {**fields, **_rope(config)}


def _rope(config: Config) -> Fields:
    """Base frequency and linear scaling from ``rope_parameters``, or from the older fields, which count before them."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = (rope.get("rope_type") or rope.get("type") or "default") if isinstance(rope, Mapping) else None
    if kind not in ("default", "linear") or rope.keys() - _ROPE or rope.get("partial_rotary_factor", 1) != 1:
        raise UsageError(
            f"config.json has the rope parameters {shown(rope)}; only rope_type default and linear, of all rows of a "
            "head, can be converted."
        )
    theta = rope.get("rope_theta", config.get("rope_theta"))
    fields: Fields = {"rope_theta": rope_theta(_ROPE_THETA if theta is None else theta)}
    if kind == "linear":
        fields |= {"rope_scaling_type": kind, "rope_scaling_factor": positive_number(rope.get("factor"), "rope factor")}
    return fields


def dense_config(fields: Fields) -> dict[str, Any]:
    """config.json from fields that were read from a file. Raises UsageError where they contradict each other."""
    if fields.get("rope_dimensions", head_dim(fields)) != head_dim(fields):
        raise UsageError(
            f"it rotates {fields['rope_dimensions']} of a head's {head_dim(fields)} rows; only all can be imported."
        )
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": fields["rope_theta"]}
    if (kind := fields.get("rope_scaling_type", "none")) not in ("none", "linear"):
        raise UsageError(f"the rope scaling {shown(kind)} is not read; only 'linear' is.")
    if kind == "linear":
        rope |= {"rope_type": "linear", "factor": fields.get("rope_scaling_factor")}
    return {
        **{name: fields[name] for name in _NUMBERS},
        **{name: fields[name] for name in ("head_dim",) if name in fields},
        "rms_norm_eps": fields["rms_norm_eps"],
        "tie_word_embeddings": fields["tie_word_embeddings"],
        "rope_parameters": rope,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
    }


def dense_shapes(fields: Fields) -> dict[str, Shape]:
    """The shapes of the matrices in :data:`TENSORS`."""
    hidden, mlp, head = fields["hidden_size"], fields["intermediate_size"], head_dim(fields)
    queries, keys = fields["num_attention_heads"] * head, fields["num_key_value_heads"] * head
    return {
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "mlp.gate_proj.weight": (mlp, hidden),
        "mlp.up_proj.weight": (mlp, hidden),
        "mlp.down_proj.weight": (hidden, mlp),
    }
