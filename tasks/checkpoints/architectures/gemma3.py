"""Gemma 3's text model, after ``Gemma3Model`` of llama.cpp's convert_hf_to_gguf.py.

What that converter turns into a wrong model without a word is written so that llama.cpp computes it, or refused.
"""

from math import sqrt
from typing import Any

from gguf.constants import GGUFValueType

from registry.errors import UsageError
from tasks.checkpoints.architectures.base import Architecture, Config, Fields, Key, Shape
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

_GLOBAL_PERIOD = 6  # llama.cpp assumes five local layers and one global
_ROPE_THETA = 10_000.0  # llama.cpp's value where a file names none
_LAYERS_OF_27B = 62  # by which llama.cpp knows the model that it scales otherwise
_NUMBERS = {  # with what transformers takes where config.json lacks them; that of a multimodal model is sparse
    "num_hidden_layers": 26,
    "max_position_embeddings": 131_072,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262_208,
}
_LAYER_KINDS = ("full_attention", "sliding_attention")
_DEFAULTS = {**_NUMBERS, "sliding_window": 4096, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6}
_ONLY = {
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "use_bidirectional_attention": False,
    "attn_logit_softcapping": None,
    "quantization_config": None,
}


def layer_types(layers: int, period: int = _GLOBAL_PERIOD) -> list[str]:
    """Gemma 3's pattern: every sixth layer attends to the whole context; no layer does with a period of 0."""
    return ["sliding_attention" if not period or (layer + 1) % period else "full_attention" for layer in range(layers)]


def _fields(config: Config) -> Fields:
    config = {**_DEFAULTS, **config}
    require(config, _ONLY)
    fields: Fields = {**positive_numbers(config, _NUMBERS), "rms_norm_eps": norm_epsilon(config)}
    check_widths(fields, fields["head_dim"])
    fields["tie_word_embeddings"] = tied(config, default=True)
    scalar = config["query_pre_attn_scalar"]
    if cap := config.get("final_logit_softcapping"):
        fields["final_logit_softcapping"] = positive_number(cap, "final_logit_softcapping")
    fields["q_norm_factor"] = sqrt(_attention_scalar(fields) / positive_number(scalar, "query_pre_attn_scalar"))
    return {**fields, **_attention(config, fields["num_hidden_layers"]), **_rope(config)}


def _attention_scalar(fields: Fields) -> int:
    """What llama.cpp divides the scores by the square root of; the queries' norm makes up for another."""
    if fields["num_hidden_layers"] == _LAYERS_OF_27B:
        return fields["hidden_size"] // fields["num_attention_heads"]
    return fields["head_dim"]


def _attention(config: Config, layers: int) -> Fields:
    """The sliding window, and the period of the layers without one where it is not Gemma's."""
    kinds = config.get("layer_types")
    if kinds is None:
        period = positive_numbers({"sliding_window_pattern": _GLOBAL_PERIOD, **config}, ["sliding_window_pattern"])
        kinds = layer_types(layers, period["sliding_window_pattern"])
    if kinds == layer_types(layers, 1):
        return {}
    window = positive_numbers(config, ["sliding_window"])
    if kinds == layer_types(layers):
        return window
    period = kinds.index("full_attention") + 1 if isinstance(kinds, list) and "full_attention" in kinds else 0
    if kinds != layer_types(layers, period):
        raise UsageError(
            "layer_types in config.json must be one full_attention after so many sliding_attention, again and again; "
            "llama.cpp knows no other order for gemma3."
        )
    return {**window, "sliding_window_pattern": period}


def _rope(config: Config) -> Fields:
    """Base frequencies and linear scaling from ``rope_parameters``, or from the older fields beside them."""
    parameters = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or {}
    if not isinstance(parameters, dict) or not isinstance(scaling, dict) or parameters.keys() - set(_LAYER_KINDS):
        raise UsageError(
            f"config.json has rope_parameters of other layers than {' and '.join(_LAYER_KINDS)}, or no object there."
        )
    full, sliding = (parameters.get(kind) or {} for kind in _LAYER_KINDS)
    both = all(_is_rope(rope, "default", "linear") for rope in (full, scaling))
    if not both or not _is_rope(sliding, "default"):
        raise UsageError(
            f"config.json has the rope scaling {shown(scaling or full)} and, for sliding layers, {shown(sliding)}; "
            "only rope_type linear of the layers of full attention can be converted."
        )
    full = {**full, **scaling}
    local_theta = sliding.get("rope_theta", config.get("rope_local_base_freq", 10_000.0))
    fields: Fields = {
        "rope_theta": rope_theta(full.get("rope_theta", config.get("rope_theta", 1_000_000.0))),
        "rope_local_base_freq": rope_theta(local_theta),
    }
    if full.get("rope_type") == "linear":
        fields |= {
            "rope_scaling_type": "linear",
            "rope_scaling_factor": positive_number(full.get("factor"), "rope factor"),
        }
    return fields


def _is_rope(rope: Any, *kinds: str) -> bool:
    """Whether ``rope`` is an object of one of these kinds, or of none, with nothing else in it that counts.

    transformers does not heed a Gemma's ``type`` alone, whatever its writer meant.
    """
    if not isinstance(rope, dict) or rope.keys() - {"rope_type", "type", "rope_theta", "factor"}:
        return False
    return rope.get("rope_type") in (None, *kinds) and rope.get("type") in (None, rope.get("rope_type"))


def _config(fields: Fields) -> dict[str, Any]:
    period = fields.get("sliding_window_pattern", _GLOBAL_PERIOD if "sliding_window" in fields else 1)
    full: dict[str, Any] = {"rope_type": "default", "rope_theta": fields["rope_theta"]}
    if (kind := fields.get("rope_scaling_type", "linear")) not in ("none", "linear"):
        raise UsageError(f"the rope scaling {shown(kind)} is not read; only 'linear' is.")
    if kind == "linear" and "rope_scaling_factor" in fields:
        full |= {"rope_type": "linear", "factor": fields["rope_scaling_factor"]}
    return {
        **{name: fields[name] for name in _NUMBERS},
        "sliding_window": fields.get("sliding_window", fields["max_position_embeddings"]),
        "query_pre_attn_scalar": _attention_scalar(fields),
        "layer_types": layer_types(fields["num_hidden_layers"], period),
        "rope_parameters": {
            "full_attention": full,
            "sliding_attention": {"rope_type": "default", "rope_theta": fields["rope_local_base_freq"]},
        },
        "rms_norm_eps": fields["rms_norm_eps"],
        "tie_word_embeddings": fields["tie_word_embeddings"],
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": fields.get("final_logit_softcapping"),
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
        Key(name="rope.scaling.type", field="rope_scaling_type", type=GGUFValueType.STRING, optional=True),
        Key(name="rope.scaling.factor", field="rope_scaling_factor", type=GGUFValueType.FLOAT32, optional=True),
        Key(name="rope.freq_base", field="rope_theta", type=GGUFValueType.FLOAT32, default=_ROPE_THETA),
        Key(name="rope.freq_base_swa", field="rope_local_base_freq", type=GGUFValueType.FLOAT32, default=_ROPE_THETA),
        Key(name="attention.layer_norm_rms_epsilon", field="rms_norm_eps", type=GGUFValueType.FLOAT32),
        Key(name="attention.key_length", field="head_dim"),
        Key(name="attention.value_length", field="head_dim"),
        Key(name="final_logit_softcapping", field="final_logit_softcapping", type=GGUFValueType.FLOAT32, optional=True),
        Key(name="attention.sliding_window", field="sliding_window", optional=True),
        # written where it is not 6, which a llama.cpp of 2025 takes whatever the file says
        Key(name="attention.sliding_window_pattern", field="sliding_window_pattern", optional=True, zero=True),
    ),
    fields=_fields,
    config=_config,
    wrapper="gemma3",
    norm_factors=lambda fields: {"self_attn.q_norm.weight": fields.get("q_norm_factor", 1.0)},
    norm_offset=1.0,  # Gemma3RMSNorm multiplies by 1 + w, llama.cpp by what the file holds
)
