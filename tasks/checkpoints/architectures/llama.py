"""Llama and what is built like it, such as SmolLM2, after ``LlamaModel`` of llama.cpp's converter."""

from typing import Any

from tasks.checkpoints.architectures.base import Architecture, Config, Fields, Key
from tasks.checkpoints.architectures.dense import (
    KEYS,
    ROPE_DIMENSIONS,
    TENSORS,
    dense_config,
    dense_fields,
    dense_shapes,
    head_dim,
)

_ONLY = {"attention_bias": False, "mlp_bias": False}


def _fields(config: Config) -> Fields:
    fields = dense_fields(config, only=_ONLY)
    return {**fields, "head_dim": head_dim(fields), "rope_dimensions": head_dim(fields)}


def _config(fields: Fields) -> dict[str, Any]:
    return {**dense_config(fields), **_ONLY}


LLAMA = Architecture(
    model_type="llama",
    gguf="llama",
    causal_lm="LlamaForCausalLM",
    tensors=TENSORS,
    shapes=dense_shapes,
    keys=(*KEYS, Key(name="vocab_size", field="vocab_size", optional=True), ROPE_DIMENSIONS),
    fields=_fields,
    config=_config,
    rotated={"self_attn.q_proj.weight": "num_attention_heads", "self_attn.k_proj.weight": "num_key_value_heads"},
)
