"""What the processes of a training must agree on, and how a model is spread over them."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from storage.errors import UserError
from trainer.sharding import shard


def distribute(accelerator: Accelerator, transformer: Any, *, sharded: bool) -> Any:
    """The transformer as every process uses it: whole, or sharded. Raises UserError for one process."""
    if not sharded:
        return accelerator.prepare_model(transformer)
    if accelerator.num_processes == 1:
        raise UserError("--shard needs several processes: start it with accelerate launch --num_processes N")
    return shard(transformer.to(accelerator.device))


def agreed(accelerator: Accelerator, flag: bool) -> bool:
    """Whether any process wants it: all must leave a loop at the same step."""
    if accelerator.num_processes == 1:
        return flag
    value = torch.tensor(float(flag), device=accelerator.device)
    return bool(accelerator.reduce(value, reduction="sum") > 0)


def most(accelerator: Accelerator, count: int) -> int:
    """The largest count of any process."""
    if accelerator.num_processes == 1:
        return count
    counts: Tensor = accelerator.gather(torch.tensor([count], device=accelerator.device))
    return int(counts.max())
