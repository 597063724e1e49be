"""A checkpoint is one safetensors file: trained weights, optimizer moments, random state and where the run stood."""

import json
from pathlib import Path
from typing import Any

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
    if torch.cuda.is_available():
        tensors["cuda_random_state"] = torch.cuda.get_rng_state()
    numbers: dict[str, float] = {}
    for name, parameter in _trained(model).items():
        tensors[f"weight.{name}"] = parameter.detach()
        for key, value in optimizer.state[parameter].items():
            kept: dict[str, Any] = tensors if isinstance(value, Tensor) else numbers
            kept[f"optimizer.{key}.{name}"] = value
    with atomic_file(path) as temporary:
        metadata = {"progress": json.dumps(progress), "numbers": json.dumps(numbers)}
        save_file(_apart(tensors), temporary, metadata=metadata)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` on the CPU, each with its own memory: 8-bit moments share their code book."""
    seen: set[int] = set()
    apart = {}
    for key, value in tensors.items():
        apart[key] = (value.clone() if value.data_ptr() in seen else value).contiguous().cpu()
        seen.add(value.data_ptr())
    return apart


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, object] | None:
    """Restore what :func:`save_checkpoint` wrote and return its ``progress``; None where there is no checkpoint."""
    if not path.exists():
        return None
    trained = _trained(model)

    def restore(key: str, value: Any) -> None:
        _, entry, name = key.split(".", 2)
        optimizer.state[trained[name]][entry] = value

    with safe_open(path, framework="pt") as file, torch.no_grad():
        for key in file.keys():  # noqa: SIM118  safe_open is no mapping
            if key.startswith("weight."):
                name = key.removeprefix("weight.")
                trained[name].copy_(file.get_tensor(key))
            elif key.startswith("optimizer."):
                restore(key, file.get_tensor(key).to(trained[key.split(".", 2)[2]].device))
            elif key == "cuda_random_state":
                torch.cuda.set_rng_state(file.get_tensor(key))
        torch.set_rng_state(file.get_tensor("random_state"))
        metadata = file.metadata()
    for key, value in json.loads(metadata["numbers"]).items():
        restore(key, value)
    return json.loads(metadata["progress"])


def best_weights(checkpoint: Path) -> Path:
    """Where the weights of the lowest validation loss are kept beside a checkpoint."""
    return checkpoint.with_name(f"best-{checkpoint.name}")


def remove_checkpoint(checkpoint: Path) -> None:
    """Remove a run's checkpoint and its best weights once the result is safe."""
    checkpoint.unlink(missing_ok=True)
    best_weights(checkpoint).unlink(missing_ok=True)


def save_trained(path: Path, model: nn.Module) -> None:
    """Write the trained weights alone."""
    tensors = {name: parameter.detach().contiguous().cpu() for name, parameter in _trained(model).items()}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary)


@torch.no_grad()
def load_trained(path: Path, model: nn.Module) -> None:
    """Put back what :func:`save_trained` wrote."""
    trained = _trained(model)
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  safe_open is no mapping
            trained[name].copy_(file.get_tensor(name))


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
