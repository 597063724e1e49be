"""Tensor names of Gemma 3 in Hugging Face checkpoints and in GGUF, and which of them are stored as 1 + w.

Gemma's RMSNorm multiplies by (1 + w), llama.cpp's by its weight, so GGUF holds 1 + w for every norm.
"""

import re

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
_LAYER_BACK = {gguf: hf for hf, gguf in _LAYER.items()}
_TOP_BACK = {gguf: hf for hf, gguf in _TOP.items()}
_HF_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.weight")
_GGUF_LAYER = re.compile(r"blk\.(\d+)\.(.+)\.weight")


def gguf_name(hf_name: str) -> str | None:
    """``model.layers.3.mlp.down_proj.weight`` -> ``blk.3.ffn_down.weight``; None where Gemma 3 has no such tensor."""
    if hf_name in _TOP:
        return _TOP[hf_name]
    match = _HF_LAYER.fullmatch(hf_name)
    return f"blk.{match[1]}.{_LAYER[match[2]]}.weight" if match and match[2] in _LAYER else None


def hf_name(gguf_name: str) -> str | None:
    """The way back of :func:`gguf_name`."""
    if gguf_name in _TOP_BACK:
        return _TOP_BACK[gguf_name]
    match = _GGUF_LAYER.fullmatch(gguf_name)
    return (
        f"model.layers.{match[1]}.{_LAYER_BACK[match[2]]}.weight"
        if match and match[2] in _LAYER_BACK
        else None
    )


def is_norm(name: str) -> bool:
    """Whether the tensor of this Hugging Face or GGUF name is a norm, stored as 1 + w in GGUF."""
    return name.endswith("norm.weight")


def expected_names(layers: int) -> dict[str, str]:
    """Hugging Face name -> GGUF name of all tensors of a Gemma 3 text model with a tied embedding."""
    return dict(_TOP) | {
        f"model.layers.{layer}.{hf}.weight": f"blk.{layer}.{gguf}.weight"
        for layer in range(layers)
        for hf, gguf in _LAYER.items()
    }
