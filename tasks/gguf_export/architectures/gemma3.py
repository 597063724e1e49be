"""Gemma 3's text model, after ``Gemma3Model`` of llama.cpp's convert_hf_to_gguf.py.

What that converter turns into a wrong model without a word is refused here.
"""

from typing import Any

from gguf.constants import GGUFValueType

from registry.errors import UsageError
from tasks.gguf_export.architectures.base import Architecture, Config, Fields, Key, Shape
from tasks.gguf_export.architectures.fields import check_widths, norm_epsilon, positive_numbers, require, rope_theta
from tasks.gguf_export.files import shown

_GLOBAL_PERIOD = 6  # llama.cpp assumes five local layers and one global
_ROPE_THETA = 10_000.0  # llama.cpp's value where a file names none
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
_ONLY = {
    "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "use_bidirectional_attention": False,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "quantization_config": None,
}


def layer_types(layers: int) -> list[str]:
    """Gemma 3's pattern: every sixth layer attends to the whole context."""
    return ["sliding_attention" if (layer + 1) % _GLOBAL_PERIOD else "full_attention" for layer in range(layers)]


def _fields(config: Config) -> Fields:
    fields: Fields = {**positive_numbers(config, _NUMBERS), "rms_norm_eps": norm_epsilon(config)}
    check_widths(fields, fields["head_dim"])
    layers = fields["num_hidden_layers"]
    period = config.get("sliding_window_pattern", _GLOBAL_PERIOD)
    if config.get("layer_types", layer_types(layers)) != layer_types(layers) or period != _GLOBAL_PERIOD:
        raise UsageError(
            "layer_types in config.json must be five sliding_attention and one full_attention in turn, "
            "which is what llama.cpp assumes for gemma3."
        )
    if config.get("query_pre_attn_scalar", 256) != fields["head_dim"]:
        raise UsageError(
            f"query_pre_attn_scalar is {shown(config.get('query_pre_attn_scalar', 256))} but head_dim is "
            f"{fields['head_dim']}; llama.cpp scales gemma3 by head_dim, so the two must be equal."
        )
    require(config, _ONLY)
    fields["rope_theta"], fields["rope_local_base_freq"] = _rope_thetas(config)
    return fields


def _rope_thetas(config: Config) -> tuple[float, float]:
    """The base frequencies of global and local layers, from ``rope_parameters`` or the older two fields."""
    parameters = config.get("rope_parameters")
    if parameters is None and config.get("rope_scaling") is None:
        thetas = config.get("rope_theta", 1_000_000.0), config.get("rope_local_base_freq", 10_000.0)
    else:
        thetas = _theta(parameters, "full_attention"), _theta(parameters, "sliding_attention")
    return rope_theta(thetas[0]), rope_theta(thetas[1])


def _theta(parameters: Any, attention: str) -> Any:
    rope = parameters.get(attention) if isinstance(parameters, dict) else None
    if not isinstance(rope, dict) or rope.get("rope_type") != "default":
        raise UsageError(
            f"config.json has no rope_parameters of type 'default' for {attention}; scaling is not written."
        )
    return rope.get("rope_theta")


def _config(fields: Fields) -> dict[str, Any]:
    return {
        **{name: fields[name] for name in _NUMBERS},
        "query_pre_attn_scalar": fields["head_dim"],
        "layer_types": layer_types(fields["num_hidden_layers"]),
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": fields["rope_theta"]},
            "sliding_attention": {"rope_type": "default", "rope_theta": fields["rope_local_base_freq"]},
        },
        "rms_norm_eps": fields["rms_norm_eps"],
        "tie_word_embeddings": True,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "initializer_range": 0.02,
        "use_bidirectional_attention": False,
        "use_cache": True,
    }


def _shapes(fields: Fields) -> dict[str, Shape]:
    hidden, mlp, head = (fields[key] for key in ("hidden_size", "intermediate_size", "head_dim"))
    queries, keys = fields["num_attention_heads"] * head, fields["num_key_value_heads"] * head
    return {
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.q_norm.weight": (head,),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.k_norm.weight": (head,),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "mlp.gate_proj.weight": (mlp, hidden),
        "mlp.up_proj.weight": (mlp, hidden),
        "mlp.down_proj.weight": (hidden, mlp),
    }


GEMMA3 = Architecture(
    model_type="gemma3_text",
    gguf="gemma3",
    causal_lm="Gemma3ForCausalLM",
    tensors={
        "input_layernorm.weight": "attn_norm.weight",
        "self_attn.q_proj.weight": "attn_q.weight",
        "self_attn.q_norm.weight": "attn_q_norm.weight",
        "self_attn.k_proj.weight": "attn_k.weight",
        "self_attn.k_norm.weight": "attn_k_norm.weight",
        "self_attn.v_proj.weight": "attn_v.weight",
        "self_attn.o_proj.weight": "attn_output.weight",
        "post_attention_layernorm.weight": "post_attention_norm.weight",
        "pre_feedforward_layernorm.weight": "ffn_norm.weight",
        "mlp.gate_proj.weight": "ffn_gate.weight",
        "mlp.up_proj.weight": "ffn_up.weight",
        "mlp.down_proj.weight": "ffn_down.weight",
        "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
    },
    shapes=_shapes,
    keys=(
        Key(name="block_count", field="num_hidden_layers"),
        Key(name="context_length", field="max_position_embeddings"),
        Key(name="embedding_length", field="hidden_size"),
        Key(name="feed_forward_length", field="intermediate_size"),
        Key(name="attention.head_count", field="num_attention_heads"),
        Key(name="attention.head_count_kv", field="num_key_value_heads"),
        Key(name="rope.freq_base", field="rope_theta", type=GGUFValueType.FLOAT32, default=_ROPE_THETA),
        Key(name="rope.freq_base_swa", field="rope_local_base_freq", type=GGUFValueType.FLOAT32, default=_ROPE_THETA),
        Key(name="attention.layer_norm_rms_epsilon", field="rms_norm_eps", type=GGUFValueType.FLOAT32),
        Key(name="attention.key_length", field="head_dim"),
        Key(name="attention.value_length", field="head_dim"),
    ),
    late_keys=(Key(name="attention.sliding_window", field="sliding_window"),),
    fields=_fields,
    config=_config,
    tied=True,
    norm_offset=1.0,  # Gemma3RMSNorm multiplies by 1 + w, llama.cpp by what the file holds
    foreign_keys=("rope.scaling.", "attention.sliding_window_pattern", "logit_softcapping", "attention.causal"),
)
