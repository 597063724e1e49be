"""Reading numbers out of config.json, none of them trusted."""

from collections.abc import Iterable
from typing import Any

from registry.errors import UsageError
from tasks.checkpoints.architectures.base import MAX_LAYERS, Config, Fields
from tasks.checkpoints.files import shown

_MAX_WIDTH = 1 << 20  # of any row or column; bounds what a config can make this program allocate


def positive_numbers(config: Config, names: Iterable[str]) -> Fields:
    """Whole numbers above 0. Raises UsageError naming the first that is none."""
    for name in names:
        if type(config.get(name)) is not int or not 0 < config[name] < 2**31:
            raise UsageError(
                f"config.json has {name} = {shown(config.get(name))} where a positive whole number belongs."
            )
    found = {name: config[name] for name in names}
    if found.get("num_hidden_layers", 0) > MAX_LAYERS:
        raise UsageError(
            f"config.json has num_hidden_layers = {found['num_hidden_layers']}, more than llama.cpp's {MAX_LAYERS}."
        )
    return found


def check_widths(fields: Fields, head_dim: int) -> None:
    """Refuse shapes that no model has, and heads that cannot be rotated or shared."""
    heads, kv_heads = fields["num_attention_heads"], fields["num_key_value_heads"]
    if heads % kv_heads or head_dim % 2:
        raise UsageError(
            f"config.json has {heads} heads of {head_dim} for {kv_heads} key-value heads; the first must be a "
            "multiple of the last, and head_dim even."
        )
    widths = {name: fields[name] for name in ("hidden_size", "intermediate_size", "vocab_size")}
    for name, width in {**widths, "num_attention_heads × head_dim": heads * head_dim}.items():
        if width > _MAX_WIDTH:
            raise UsageError(f"config.json has {name} = {width}; at most {_MAX_WIDTH} is possible.")


def rope_theta(theta: Any) -> float:
    if type(theta) not in (int, float) or not 1 <= theta < 1e30:
        raise UsageError(f"config.json has the rope base frequency {shown(theta)}; it must be 1 or more.")
    return float(theta)


def norm_epsilon(config: Config) -> float:
    epsilon = config.get("rms_norm_eps")
    if type(epsilon) is not float or not 1e-20 < epsilon < 1:
        raise UsageError(f"config.json has rms_norm_eps = {shown(epsilon)} where a small positive number belongs.")
    return epsilon


def require(config: Config, needed: dict[str, Any]) -> None:
    """Refuse a config that says something else than ``needed``, where it says anything."""
    for key, value in needed.items():
        if key in config and config[key] != value and (config[key] or value):
            raise UsageError(f"config.json has {key} = {shown(config[key])}; only {value!r} can be converted.")


def positive_number(value: Any, name: str) -> float:
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise UsageError(f"config.json has {name} = {shown(value)} where a positive number belongs.")
    return float(value)


def tied(config: Config, *, default: bool) -> bool:
    """Whether the embedding is also the output matrix; ``default`` is what transformers takes."""
    value = config.get("tie_word_embeddings", default)
    if type(value) is not bool:
        raise UsageError(f"config.json has tie_word_embeddings = {shown(value)}; it is true or false.")
    return value
