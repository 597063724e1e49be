"""The shape of the small checkpoints that these tests write."""

CONFIG = {
    "model_type": "gemma3_text",
    "hidden_size": 64,
    "intermediate_size": 96,
    "head_dim": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 3,
    "vocab_size": 300,
}
OUTLIER = "model.layers.2.post_feedforward_layernorm.weight"
