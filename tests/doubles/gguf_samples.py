"""The parts of a tiny Gemma 3 folder with weights of a trained model's scale."""

import json
from pathlib import Path

import numpy as np

from tasks.checkpoints.architectures import describe
from tasks.checkpoints.architectures.gemma3 import layer_types

_LAYERS = 7  # five local, one global, one local
CONFIG = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "vocab_size": 416,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 512,
    "sliding_window": 16,
    "layer_types": layer_types(_LAYERS),
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    },
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": [1, 5],
    "pad_token_id": 0,
    "dtype": "float32",
}
SENTENCES = [
    "Audit pump P-101 for a leak at the seal, pressure 3.5 bar.",
    "Inspect the conveyor belt and the gear box of line 7 tomorrow at 10:30.",
    "Überprüfe die Dichtung an der Förderpumpe, bitte.",
    '{"intent": "inspect_asset", "entities": {"asset": "P-102"}}',
    "two  spaces   and three,\nnew line\tand tab",
]


def tiny_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of a trained model's scale: a few large norm gains, matrices of about 1 / sqrt(row length)."""
    random = np.random.default_rng(seed)
    weights = {}
    for name, shape in describe(CONFIG).tensor_shapes.items():
        scale = 0.5 if len(shape) == 1 else shape[-1] ** -0.5
        weights[name] = (random.standard_normal(shape) * scale).astype(np.float32)
    weights["model.layers.3.post_feedforward_layernorm.weight"][5] = 1656.0
    return weights


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
