"""Fully sharded training (FSDP2): each process keeps its share of weights, gradients and moments.

A layer's weights are whole only while it computes (Zhao et al. 2023, arXiv:2304.11277); what is made of them, a cast to
bfloat16 or a quantised copy, lives until its backward pass.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tasks.training.objective import Objective


def shard(objective: Objective, *, device_type: str) -> None:
    """Spread the parameters of ``objective`` over the processes, layer by layer; the embedding is in use throughout."""
    mesh = init_device_mesh(device_type, (torch.distributed.get_world_size(),))
    for layer in objective.layers:
        fully_shard(layer, mesh=mesh)
    # by default the outermost module stays whole after a forward pass, and its moments would not be found
    fully_shard(objective, mesh=mesh, reshard_after_forward=True)


def whole(tensor: Tensor) -> Tensor:
    """All of a sharded tensor; every process has to ask. A plain one is returned as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, reference: Any) -> Tensor:
    """``tensor`` on the device of ``reference``, sharded as it is."""
    if isinstance(reference, DTensor):
        return distribute_tensor(tensor.to(reference.device), reference.device_mesh, reference.placements)
    return tensor.to(reference.device)
