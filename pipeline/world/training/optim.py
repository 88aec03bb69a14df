"""Muon for matrices with AdamW for the rest, a warm-up and cosine schedule, and an average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn

# Quintic Newton-Schulz coefficients of Muon (Jordan et al., 2024).
_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices_NRC: Tensor, steps: int = 5) -> Tensor:
    """Approximately the nearest semi-orthogonal matrix of each of a stack, in the dtype given."""
    a, b, c = _COEFFICIENTS
    tall = matrices_NRC.shape[-2] > matrices_NRC.shape[-1]
    x = matrices_NRC.mT if tall else matrices_NRC
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.mT if tall else x
    return result


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised per matrix; matrices of one shape are handled as a stack, in fp32.

    `lr` is the root mean square size of the elements of an update.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.01
    ):
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient; `closure` is not supported."""
        if closure is not None:
            raise ValueError("Muon.step: closures are not supported, got one; call backward() before step()")
        for group in self.param_groups:
            stacks: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for param in group["params"]:
                if param.grad is not None:
                    stacks.setdefault(tuple(param.flatten(1).shape), []).append(param)
            for params in stacks.values():
                self._update(params, group)

    def _update(self, params: list[nn.Parameter], group: dict[str, Any]) -> None:
        directions = []
        for param in params:
            state = self.state[param]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(param)
            gradient = param.grad
            assert gradient is not None
            buffer = state["momentum"].lerp_(gradient, 1 - group["momentum"])
            directions.append(torch.lerp(gradient, buffer, group["momentum"]).flatten(1))
        updates = orthogonalise(torch.stack(directions))
        size = math.sqrt(max(updates.shape[-2:])) * group["lr"]
        for param, update in zip(params, updates, strict=True):
            param.mul_(1 - group["lr"] * group["decay"]).sub_(update.view_as(param), alpha=size)


def build_optimizers(
    model: nn.Module, muon_lr: float, adam_lr: float, decay: float = 0.01
) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices and convolutions, AdamW for vectors, embeddings and thin matrices."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        thin = param.ndim < 2 or min(param.flatten(1).shape) < 16 or "embed" in name
        (others if thin else matrices).append(param)
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        optimizers.append(Muon(matrices, lr=muon_lr, decay=decay))
    if others:
        optimizers.append(torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def schedule(step: int, steps: int, warmup: int = 50) -> float:
    """Factor of the peak rate: linear warm-up, then a cosine down to 1 %."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Sets every group to `factor` times its peak rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def take_step(
    loss: Tensor,
    optimizers: list[torch.optim.Optimizer],
    model_name: str,
    step: int,
    clip: Iterable[nn.Parameter] | None = None,
) -> None:
    """One update by every optimizer; the gradient of the parameters in `clip` is first bounded to norm 1.

    Raises FloatingPointError, before anything is changed, for a loss that is not finite.
    """
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"{model_name} training: the loss is {loss.item()} at step {step}; lower the rates"
        )
    loss.backward()  # type: ignore[no-untyped-call]
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(clip, 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


class WeightAverage:
    """Exponential moving average of a model's floating-point state, with a short memory at the start."""

    def __init__(self, model: nn.Module, decay: float = 0.998) -> None:
        self.decay = decay
        self.tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def to(self, device: str) -> None:
        """Moves the average to a device."""
        self.tensors = {name: value.to(device) for name, value in self.tensors.items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves the average towards the weights of `model` after optimiser step `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.tensors[name].lerp_(value, 1 - decay)
            else:
                self.tensors[name].copy_(value)
