"""A checkpoint is one safetensors file: trained weights, optimizer moments, random state and where the run stood."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from registry.artifacts import atomic_file


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, object]
) -> None:
    """Write the state of a run after a whole optimizer step; ``progress`` is any JSON."""
    tensors: dict[str, Tensor] = {"random_state": torch.get_rng_state()}
    for name, parameter in _trained(model).items():
        tensors[f"weight.{name}"] = parameter.detach()
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = value
    with atomic_file(path) as temporary:
        save_file(
            {key: value.contiguous().cpu() for key, value in tensors.items()},
            temporary,
            metadata={"progress": json.dumps(progress)},
        )


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, object] | None:
    """Restore what :func:`save_checkpoint` wrote and return its ``progress``; None where there is no checkpoint."""
    if not path.exists():
        return None
    trained = _trained(model)
    with safe_open(path, framework="pt") as file, torch.no_grad():
        for key in file.keys():  # noqa: SIM118  safe_open is no mapping
            kind, _, name = key.partition(".")
            if kind == "weight":
                trained[name].copy_(file.get_tensor(key))
            elif kind == "optimizer":
                entry, _, name = name.partition(".")
                optimizer.state[trained[name]][entry] = file.get_tensor(key).to(trained[name].device)
        torch.set_rng_state(file.get_tensor("random_state"))
        return json.loads(file.metadata()["progress"])


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
