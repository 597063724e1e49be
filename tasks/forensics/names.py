"""Names of tensors: one spelling for Hugging Face folders and GGUF files, so that models can be compared."""

import re
from collections.abc import Sequence
from enum import StrEnum

from tasks.checkpoints.architectures import architecture_of_file

# Architectures whose RMSNorm multiplies by 1 + w: a folder stores w, a GGUF file stores 1 + w.
_UNIT_OFFSET_NORMS = frozenset({"gemma", "gemma2", "gemma3", "gemma3_text"})

_GGUF_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_GGUF_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_SANDWICH_NORMS = frozenset({"gemma2", "gemma3"})  # a norm before and one after each of the two halves of a block
_GGUF_TENSOR = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")
_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.(.+)\.\w+$")
_NORM = re.compile(r"(?:norm|ln_\d|ln_f)\.weight$")
_EMBEDDING = re.compile(r"(?:embed_tokens|wte|embeddings)\.weight$")


class TensorKind(StrEnum):
    NORM = "norm"
    LINEAR = "linear"
    EMBEDDING = "embedding"
    OTHER = "other"  # biases and buffers


def norm_offset(architecture: str, name: str) -> float:
    """What the model adds to a norm's weight before it multiplies: 1 in Gemma's text model, else 0."""
    return 1.0 if architecture in _UNIT_OFFSET_NORMS and "vision_tower" not in name else 0.0


def name_from_gguf(name: str, architecture: str) -> str:
    """The Hugging Face name of a GGUF tensor; names that are not in the table stay as they are."""
    described = architecture_of_file(architecture)
    if described and (known := described.hf_name(name)):
        return known
    match = _GGUF_TENSOR.fullmatch(name)
    if not match:
        return name
    block, stem, suffix = match.groups()
    if block is None:
        return f"{_GGUF_TOP[stem]}.{suffix}" if stem in _GGUF_TOP else name
    if stem == "ffn_norm" and architecture in _SANDWICH_NORMS:
        return f"model.layers.{block}.pre_feedforward_layernorm.{suffix}"
    return f"model.layers.{block}.{_GGUF_BLOCK[stem]}.{suffix}" if stem in _GGUF_BLOCK else name


def kind_of(name: str, shape: tuple[int, ...]) -> TensorKind:
    """What sort of tensor this is, judged by its name and rank."""
    if _NORM.search(name) and len(shape) == 1:
        return TensorKind.NORM
    if _EMBEDDING.search(name):
        return TensorKind.EMBEDDING
    return TensorKind.LINEAR if len(shape) >= 2 else TensorKind.OTHER


def layer_and_part(name: str) -> tuple[int | None, str]:
    """``model.layers.16.self_attn.q_norm.weight`` -> (16, ``self_attn.q_norm``); None outside the blocks."""
    match = _LAYER.search(name)
    return (int(match[1]), match[2]) if match else (None, name.rpartition(".")[0] or name)


def name_in_base(name: str, base_layers: Sequence[int]) -> str:
    """The name that a tensor had in the base, of whose layers the model has ``base_layers``."""
    match = _LAYER.search(name)
    if match is None or int(match[1]) >= len(base_layers):
        return name
    begin, end = match.span(1)
    return f"{name[:begin]}{base_layers[int(match[1])]}{name[end:]}"
