"""Sharding the model over processes (FSDP2), and what of a sharded tensor is needed whole.

Every function that makes a tensor whole is a collective: all processes must call it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from storage.errors import UserError


def shard(transformer: Any) -> Any:
    """Shard every repeated block and the rest of a transformer over the processes, in place.

    Raises UserError when its class does not name its blocks.
    """
    blocks = tuple(getattr(transformer, "_no_split_modules", None) or ())
    if not blocks:
        raise UserError(f"{type(transformer).__name__} does not name its blocks: train it without --shard")
    for module in list(transformer.modules()):
        if type(module).__name__ in blocks:
            fully_shard(module)
    return fully_shard(transformer)


def whole(tensor: Tensor) -> Tensor:
    """The tensor with the parts of all processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole value on the parameter's device, in its parts where the parameter is sharded."""
    value = value.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return value.clone()
    return distribute_tensor(value, parameter.device_mesh, parameter.placements)


@torch.no_grad()
def put(parameter: Tensor, value: Tensor) -> None:
    """Overwrite a parameter, sharded or not, with a whole value."""
    parameter.copy_(like(value.to(parameter.dtype), parameter))
