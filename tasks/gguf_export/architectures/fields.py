"""Reading numbers out of config.json, none of them trusted."""

from collections.abc import Iterable
from typing import Any

from registry.errors import UsageError
from tasks.gguf_export.architectures.base import MAX_LAYERS, Config, Fields


def positive_numbers(config: Config, names: Iterable[str]) -> Fields:
    """Whole numbers above 0. Raises UsageError naming the first that is none."""
    for name in names:
        if type(config.get(name)) is not int or not 0 < config[name] < 2**31:
            raise UsageError(f"config.json has {name} = {config.get(name)!r} where a positive whole number belongs.")
    found = {name: config[name] for name in names}
    if found.get("num_hidden_layers", 0) > MAX_LAYERS:
        raise UsageError(
            f"config.json has num_hidden_layers = {found['num_hidden_layers']}, more than llama.cpp's {MAX_LAYERS}."
        )
    return found


def norm_epsilon(config: Config) -> float:
    epsilon = config.get("rms_norm_eps")
    if type(epsilon) is not float or not 0 < epsilon < 1:
        raise UsageError(f"config.json has rms_norm_eps = {epsilon!r} where a small positive number belongs.")
    return epsilon


def require(config: Config, needed: dict[str, Any]) -> None:
    """Refuse a config that says something else than ``needed``, where it says anything."""
    for key, value in needed.items():
        if key in config and config[key] != value and (config[key] or value):
            raise UsageError(f"config.json has {key} = {config[key]!r}; only {value!r} can be converted.")
