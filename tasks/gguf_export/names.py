"""Tensor names of Gemma 3 in Hugging Face checkpoints and in GGUF, their shapes, and which hold 1 + w.

Gemma's RMSNorm multiplies by (1 + w), llama.cpp's by its weight, so GGUF holds 1 + w for every norm.
"""

import re
from collections.abc import Mapping

from registry.errors import UsageError

EMBEDDING = "model.embed_tokens.weight"
OUTPUT = "lm_head.weight"

_TOP = {EMBEDDING: "token_embd.weight", "model.norm.weight": "output_norm.weight"}
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_proj": "attn_k",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_HF_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.weight")


def gguf_name(hf_name: str) -> str:
    """``model.layers.3.mlp.down_proj.weight`` -> ``blk.3.ffn_down.weight``.

    Raises UsageError for a name that Gemma 3's text model does not have.
    """
    if hf_name in _TOP:
        return _TOP[hf_name]
    match = _HF_LAYER.fullmatch(hf_name)
    if match is None or match[2] not in _LAYER:
        raise UsageError(f"{hf_name} is no tensor of a Gemma 3 text model; only those can be converted.")
    return f"blk.{match[1]}.{_LAYER[match[2]]}.weight"


def is_norm(name: str) -> bool:
    """Whether the tensor of this Hugging Face or GGUF name is a norm, stored as 1 + w in GGUF."""
    return name.endswith("norm.weight")


def tensor_shapes(config: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Hugging Face name -> shape of all tensors of a Gemma 3 text model with a tied embedding.

    ``config`` has the number fields of Gemma3TextConfig.
    """
    hidden, mlp, head = (config[key] for key in ("hidden_size", "intermediate_size", "head_dim"))
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.q_norm": (head,),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.k_norm": (head,),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (mlp, hidden),
        "mlp.up_proj": (mlp, hidden),
        "mlp.down_proj": (hidden, mlp),
    }
    return {
        EMBEDDING: (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
        **{
            f"model.layers.{layer}.{part}.weight": shapes.get(part, (hidden,))
            for layer in range(config["num_hidden_layers"])
            for part in _LAYER
        },
    }
