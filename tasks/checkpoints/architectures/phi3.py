"""Phi-3, after ``Phi3MiniModel`` of llama.cpp's converter: queries, keys and values in one matrix, gate and up in
another."""

from typing import Any

from registry.errors import UsageError
from tasks.checkpoints.architectures.base import Architecture, Config, Fields, Key, Shape
from tasks.checkpoints.architectures.dense import (
    BLOCK_COUNT,
    CONTEXT_LENGTH,
    EMBEDDING_LENGTH,
    FEED_FORWARD_LENGTH,
    HEADS,
    NORM_EPSILON,
    ROPE_DIMENSIONS,
    ROPE_THETA,
    dense_config,
    dense_fields,
    head_dim,
)
from tasks.checkpoints.architectures.fields import positive_numbers
from tasks.checkpoints.files import shown

_ONLY = {"attention_bias": False}


def _fields(config: Config) -> Fields:
    fields = dense_fields(config, only=_ONLY)
    if "rope_scaling_type" in fields or head_dim(fields) * fields["num_attention_heads"] != fields["hidden_size"]:
        raise UsageError("config.json has a rope scaling or a head_dim of its own, which llama.cpp ignores for phi3.")
    context, window = fields["max_position_embeddings"], config.get("sliding_window")
    if window is not None and (type(window) is not int or window < context):
        raise UsageError(
            f"config.json has sliding_window = {shown(window)}, which llama.cpp ignores for phi3; lower "
            f"max_position_embeddings, {context}, to it."
        )
    own = {"original_max_position_embeddings": context, **config}
    return {
        **{name: value for name, value in fields.items() if name != "head_dim"},
        **positive_numbers(own, ["original_max_position_embeddings"]),
        "rope_dimensions": head_dim(fields),
        "sliding_window": window or 0,
    }


def _config(fields: Fields) -> dict[str, Any]:
    return {
        **dense_config(fields),
        **_ONLY,
        "original_max_position_embeddings": fields["original_max_position_embeddings"],
        "sliding_window": fields["sliding_window"] or None,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
    }


def _shapes(fields: Fields) -> dict[str, Shape]:
    hidden, mlp, heads = fields["hidden_size"], fields["intermediate_size"], fields["num_attention_heads"]
    return {
        "self_attn.qkv_proj.weight": ((heads + 2 * fields["num_key_value_heads"]) * head_dim(fields), hidden),
        "self_attn.o_proj.weight": (hidden, hidden),
        "mlp.gate_up_proj.weight": (2 * mlp, hidden),
        "mlp.down_proj.weight": (hidden, mlp),
    }


PHI3 = Architecture(
    model_type="phi3",
    gguf="phi3",
    causal_lm="Phi3ForCausalLM",
    tensors={
        "input_layernorm.weight": "attn_norm.weight",
        "self_attn.qkv_proj.weight": "attn_qkv.weight",
        "self_attn.o_proj.weight": "attn_output.weight",
        "post_attention_layernorm.weight": "ffn_norm.weight",
        "mlp.gate_up_proj.weight": "ffn_up.weight",
        "mlp.down_proj.weight": "ffn_down.weight",
    },
    shapes=_shapes,
    keys=(
        CONTEXT_LENGTH,
        Key(name="rope.scaling.original_context_length", field="original_max_position_embeddings"),
        EMBEDDING_LENGTH,
        FEED_FORWARD_LENGTH,
        BLOCK_COUNT,
        *HEADS,
        NORM_EPSILON,
        ROPE_DIMENSIONS,
        ROPE_THETA,
        Key(name="attention.sliding_window", field="sliding_window", zero=True),
    ),
    fields=_fields,
    config=_config,
)
