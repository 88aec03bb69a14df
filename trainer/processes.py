"""What the processes of a training must agree on, and what can end one early."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from storage.errors import UserError
from trainer.lora import shard


class NonFiniteLossError(UserError):
    """The loss or its gradient was not finite; no parameter was changed by that step."""

    def __init__(self, what: str, step: int, pair_ids: tuple[str, ...]) -> None:
        self.step = step
        self.pair_ids = pair_ids
        super().__init__(
            f"{what} is not finite at step {step} for the pairs {', '.join(pair_ids)}: the optimiser step "
            "was not taken. Look at the latents of these pairs, or lower the learning rate, and run again"
        )


class Interrupted(UserError):
    """A signal ended the training after a whole step; the checkpoint is written."""

    def __init__(self, signal_name: str, step: int, steps: int, out_dir: Path) -> None:
        self.signal_name = signal_name
        self.step = step
        super().__init__(
            f"training stopped by {signal_name} after step {step} of {steps}; the checkpoint is in "
            f"{out_dir}. The same command continues from it"
        )


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class StopRequest:
    """The name of the signal that asked to stop, once there was one."""

    name: str | None = None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note the first signal instead of dying of it; a second one has its usual effect.

    Handlers can only be set in the main thread; elsewhere nothing is noted.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        request.name = signal.Signals(number).name
        _restore(previous)

    for number in _SIGNALS:
        previous[number] = signal.signal(number, note)
    try:
        yield request
    finally:
        _restore(previous)


def _restore(previous: dict[int, Any]) -> None:
    for number, handler in previous.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def require_several(accelerator: Accelerator, *, sharded: bool) -> None:
    """Raise UserError when one process is to share its weights with itself."""
    if sharded and accelerator.num_processes == 1:
        raise UserError("`shard` needs several processes: start it with accelerate launch --num_processes N")


def distribute(accelerator: Accelerator, transformer: Any, *, sharded: bool) -> Any:
    """The transformer as every process uses it: whole, or sharded."""
    if not sharded:
        return accelerator.prepare_model(transformer)
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
