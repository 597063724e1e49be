"""A checkpoint is one safetensors file: trained weights, optimizer moments, random state and where the run stood."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from registry.files import atomic_file
from tasks.training.sharding import like, whole


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: dict[str, object],
    *,
    write: bool = True,
) -> None:
    """Write the state of a run after a whole optimizer step; ``progress`` is any JSON.

    A process with ``write = False`` only gives its share of sharded tensors.
    """
    tensors: dict[str, Tensor] = {"random_state": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda_random_state"] = torch.cuda.get_rng_state()
    numbers: dict[str, float] = {}
    for name, parameter in _trained(model).items():
        tensors[f"weight.{name}"] = _on_cpu(parameter, write)
        for key, value in optimizer.state[parameter].items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{key}.{name}"] = _on_cpu(value, write)
            else:
                numbers[f"optimizer.{key}.{name}"] = value
    if not write:
        return
    with atomic_file(path) as temporary:
        metadata = {"progress": json.dumps(progress), "numbers": json.dumps(numbers)}
        save_file(_apart(tensors), temporary, metadata=metadata)


def _on_cpu(tensor: Tensor, write: bool) -> Tensor:
    found = whole(tensor.detach())
    return found.contiguous().cpu() if write else torch.empty(0)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """``tensors``, each with its own memory: 8-bit moments share their code book."""
    seen: set[int] = set()
    apart = {}
    for key, value in tensors.items():
        apart[key] = value.clone() if value.data_ptr() in seen else value
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
                trained[name].copy_(like(file.get_tensor(key), trained[name]))
            elif key.startswith("optimizer."):
                value, parameter = file.get_tensor(key), trained[key.split(".", 2)[2]]
                restore(key, like(value, parameter) if value.shape == parameter.shape else value.to(parameter.device))
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


def final_weights(checkpoint: Path) -> Path:
    """Where a sharded run gathers its last weights."""
    return checkpoint.with_name(f"final-{checkpoint.name}")


def remove_checkpoint(checkpoint: Path) -> None:
    """Remove a run's checkpoint and what is kept beside it once the result is safe."""
    for path in (checkpoint, best_weights(checkpoint), final_weights(checkpoint)):
        path.unlink(missing_ok=True)


def save_trained(path: Path, model: nn.Module, *, write: bool = True) -> None:
    """Write the trained weights alone; ``write`` as in :func:`save_checkpoint`."""
    tensors = {name: _on_cpu(parameter, write) for name, parameter in _trained(model).items()}
    if write:
        with atomic_file(path) as temporary:
            save_file(tensors, temporary)


@torch.no_grad()
def load_trained(path: Path, model: nn.Module) -> None:
    """Put back what :func:`save_trained` wrote."""
    trained = _trained(model)
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  safe_open is no mapping
            trained[name].copy_(like(file.get_tensor(name), trained[name]))


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
