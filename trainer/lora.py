"""LoRA on a diffusers transformer, whole or spread over processes (FSDP2).

Every function that makes a tensor whole is a collective: all processes must call it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from storage.errors import UserError


def shard(transformer: Any) -> Any:
    """Shard every repeated block and the rest of a transformer over the processes, in place.

    Raises UserError when its class does not name its blocks.
    """
    blocks = tuple(getattr(transformer, "_no_split_modules", None) or ())
    if not blocks:
        raise UserError(f"{type(transformer).__name__} does not name its blocks: train it without `shard`")
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
def _put(parameter: Tensor, value: Tensor) -> None:
    """Overwrite a parameter, sharded or not, with a whole value."""
    parameter.copy_(like(value.to(parameter.dtype), parameter))


_ADAPTER, _REFERENCE = "default", "reference"


def _lora_config(rank: int, alpha: int, targets: tuple[str, ...]) -> LoraConfig:
    """The peft configuration: no dropout, no bias, second matrix zero so that training starts at the base."""
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), lora_dropout=0.0, bias="none")


def attach_lora(transformer: Any, rank: int, alpha: int, targets: tuple[str, ...], seed: int) -> None:
    """Freeze the transformer and add a trainable fp32 adapter whose first values depend on the seed only."""
    transformer.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer.add_adapter(_lora_config(rank, alpha, targets), adapter_name=_ADAPTER)
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            # On a bf16 base an update of 1e-6 would round away: the adapter stays in fp32.
            parameter.data = parameter.data.float()


def attach_reference(transformer: Any, rank: int, alpha: int, targets: tuple[str, ...]) -> None:
    """Add a frozen fp32 adapter beside the trained one, of the values that this one has now."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # That there is another one is what is meant.
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        transformer.add_adapter(_lora_config(rank, alpha, targets), adapter_name=_REFERENCE)
    transformer.set_adapter(_ADAPTER)
    trained = lora_parameters(transformer)
    for name, parameter in lora_parameters(transformer, _REFERENCE).items():
        parameter.data = trained[name.replace(f".{_REFERENCE}.", f".{_ADAPTER}.")].data.clone()


def lora_parameters(transformer: nn.Module, adapter: str = _ADAPTER) -> dict[str, nn.Parameter]:
    """The trained adapter's parameters by module name, in the model's order."""
    return {
        name: p for name, p in transformer.named_parameters() if "lora_" in name and f".{adapter}." in name
    }


@contextmanager
def as_reference(transformer: Any) -> Iterator[None]:
    """Inside, the model computes exactly what the reference does: the base, or the adapter kept beside."""
    if _REFERENCE in transformer.peft_config:
        transformer.set_adapter(_REFERENCE)
        try:
            yield
        finally:
            transformer.set_adapter(_ADAPTER)
        return
    transformer.disable_adapters()
    try:
        yield
    finally:
        transformer.enable_adapters()


def lora_state(transformer: nn.Module, device: str = "cpu") -> dict[str, Tensor]:
    """The trained adapter's weights on a device under peft's names (without the adapter's own name)."""
    state = cast("dict[str, Tensor]", get_peft_model_state_dict(transformer, adapter_name=_ADAPTER))
    return {name: whole(value.detach()).to(device, copy=True).contiguous() for name, value in state.items()}


def load_lora_state(transformer: nn.Module, state: dict[str, Tensor]) -> None:
    """Put saved weights back. Raises ValueError when they are not those of this adapter."""
    expected = {name: tuple(value.shape) for name, value in lora_state(transformer).items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))
        raise ValueError(
            f"the saved adapter is not of this model, rank or targets: first difference {wrong[0]}"
        )
    for name, parameter in lora_parameters(transformer).items():
        _put(parameter, state[name.replace(f".{_ADAPTER}.", ".")])
