"""Qwen2, whose queries, keys and values have biases, and Qwen3, which has norms on queries and keys instead."""

from typing import Any

from tasks.checkpoints.architectures.base import Architecture, Config, Fields, Shape
from tasks.checkpoints.architectures.dense import KEYS, TENSORS, dense_config, dense_fields, dense_shapes, head_dim
from tasks.checkpoints.architectures.fields import positive_numbers

_ONLY = {"use_sliding_window": False}
_NO_BIAS = {"attention_bias": False}


def _qwen2_shapes(fields: Fields) -> dict[str, Shape]:
    shapes = dense_shapes(fields)
    biases = {f"self_attn.{part}_proj.bias": shapes[f"self_attn.{part}_proj.weight"][:1] for part in "qkv"}
    return {**shapes, **biases}


def _qwen3_fields(config: Config) -> Fields:
    positive_numbers(config, ["head_dim"])  # where it is missing, transformers takes another than llama.cpp
    return dense_fields(config, only={**_ONLY, **_NO_BIAS})


def _qwen3_shapes(fields: Fields) -> dict[str, Shape]:
    head = (head_dim(fields),)
    return {**dense_shapes(fields), "self_attn.q_norm.weight": head, "self_attn.k_norm.weight": head}


def _qwen3_config(fields: Fields) -> dict[str, Any]:
    return {**dense_config(fields), "head_dim": head_dim(fields), **_ONLY, **_NO_BIAS}


QWEN2 = Architecture(
    model_type="qwen2",
    gguf="qwen2",
    causal_lm="Qwen2ForCausalLM",
    tensors=TENSORS | {f"self_attn.{part}_proj.bias": f"attn_{part}.bias" for part in "qkv"},
    shapes=_qwen2_shapes,
    keys=KEYS,
    fields=lambda config: dense_fields(config, only=_ONLY),
    config=lambda fields: {**dense_config(fields), **_ONLY},
)
QWEN3 = Architecture(
    model_type="qwen3",
    gguf="qwen3",
    causal_lm="Qwen3ForCausalLM",
    tensors=TENSORS
    | {"self_attn.q_norm.weight": "attn_q_norm.weight", "self_attn.k_norm.weight": "attn_k_norm.weight"},
    shapes=_qwen3_shapes,
    keys=KEYS,
    fields=_qwen3_fields,
    config=_qwen3_config,
)
