"""What a step costs: memory and arithmetic of the very code that trains, run on tensors without storage.

A forward and a backward pass of a 14B model take seconds here and no memory, so that a choice can be made,
and a user told, before a weight is loaded.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from trainer.data import MicroBatch, PairBatch
from trainer.families.base import Condition, Family, PairShapes
from trainer.lora import attach_lora, attach_reference, lora_parameters
from trainer.step import PairForward

# For fragmentation and the workspaces of kernels, which allocations do not show.
HEADROOM = 1.15


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))  # type: ignore[no-untyped-call]


# torch's counter knows the kernels of a GPU only.
_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


@dataclass(frozen=True, kw_only=True)
class CostSettings:
    """What of a training decides its cost."""

    objective: str
    batch_size: int
    rank: int
    alpha: int
    dtype: torch.dtype
    gradient_checkpointing: bool
    together: bool
    cached_reference: bool
    first_frame_weight: float = 1.0
    frozen_start: bool = False


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Bytes at the peak of a step and of the weights alone, and floating point operations per pair.

    `flops_per_pair` counts matrix products and attention, forward and backward, recomputation included;
    `forward_flops_per_pair` the forward pass of both sides alone; `tokens` those of one sample in the
    transformer, text included.
    """

    peak_bytes: int
    weights_bytes: int
    flops_per_pair: float
    forward_flops_per_pair: float
    tokens: int
    parameters: int
    trainable: int

    def as_dict(self) -> Mapping[str, float]:
        """The figures by name."""
        return dict(vars(self))


def step_cost(family: Family, shapes: PairShapes, settings: CostSettings) -> StepCost:
    """The cost of one micro-batch with its backward pass and an AdamW step. `family` gives the kind only."""
    transformer = _shell(family, settings)
    # The scheduler's tables are real.
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, torch.random.fork_rng(devices=[]):
        _fill(transformer)
        step = PairForward(
            family=family.with_transformer(transformer),
            model=transformer,
            objective=settings.objective,
            beta=1.0,
            loss_weight_X=_fake_loss_weight(family, shapes, settings.first_frame_weight),
            together=settings.together,
        )
        inputs = _inputs(shapes, settings.batch_size)
        flops = _count(step, inputs, settings)
        peak, weights = _track(step, inputs, settings)
    tokens = flops.pop("tokens")
    base = [p for name, p in transformer.named_parameters() if "lora_" not in name]
    trainable = sum(parameter.numel() for parameter in lora_parameters(transformer).values())
    return StepCost(
        peak_bytes=peak,
        weights_bytes=weights,
        flops_per_pair=flops["total"] / settings.batch_size,
        forward_flops_per_pair=flops["forward"] / settings.batch_size,
        tokens=int(tokens),
        parameters=sum(parameter.numel() for parameter in base),
        trainable=trainable,
    )


def _shell(family: Family, settings: CostSettings) -> Any:
    """The transformer with its adapter, on no device."""
    with torch.device("meta"):
        transformer = type(family.transformer).from_config(family.transformer.config)
        _cast(transformer, settings.dtype)
        attach_lora(transformer, settings.rank, settings.alpha, family.lora_targets, seed=0)
        if settings.frozen_start:
            attach_reference(transformer, settings.rank, settings.alpha, family.lora_targets)
    if settings.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    transformer.train()
    return transformer


def _cast(transformer: Any, dtype: torch.dtype) -> None:
    """To the precision in which loading leaves the weights: a class may keep some modules in fp32."""
    kept = tuple(getattr(transformer, "_keep_in_fp32_modules", None) or ())
    for name, parameter in transformer.named_parameters():
        if not any(part in name.split(".") for part in kept):
            parameter.data = parameter.data.to(dtype)


def _fill(transformer: nn.Module) -> None:
    """Give every parameter and buffer a fake CPU tensor: on the meta device attention takes another path."""
    for module in transformer.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                module._parameters[name] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _inputs(shapes: PairShapes, pairs: int) -> MicroBatch:
    def empty(shape: tuple[int, ...]) -> Tensor:
        return torch.empty(pairs, *shape)

    condition = Condition(
        prompt_BLD=empty(shapes.prompt),
        image_BX=None if shapes.image is None else empty(shapes.image),
        image_embeds_BLD=None if shapes.image_embeds is None else empty(shapes.image_embeds),
    )
    latents = empty(shapes.latent)
    batch = PairBatch(
        pair_ids=("",) * pairs, winner_BX=latents, loser_BX=empty(shapes.latent), condition=condition
    )
    return MicroBatch(
        batch=batch, noise_BX=empty(shapes.latent), timestep_index_B=torch.zeros(pairs, dtype=torch.int64)
    )


def _fake_loss_weight(family: Family, shapes: PairShapes, first_frame_weight: float) -> Tensor | None:
    counted = family.loss_weight(shapes, first_frame_weight)
    return None if counted is None else torch.empty(counted.shape)


def _pass(step: PairForward, inputs: MicroBatch, settings: CostSettings) -> None:
    pairs = len(inputs.timestep_index_B)
    reference_N = torch.empty(2 * pairs, dtype=torch.float64) if settings.cached_reference else None

    def backward(loss: Tensor, _metrics: dict[str, Tensor]) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    step.run(inputs, reference_N, backward)


def _count(step: PairForward, inputs: MicroBatch, settings: CostSettings) -> dict[str, float]:
    """Operations of a pass, and tokens of a sample: what the first adapted projection is given."""
    seen: list[int] = []
    targets = tuple(step.family.lora_targets)
    module = next(m for name, m in step.family.transformer.named_modules() if name.endswith(targets))
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(int(args[0].shape[1])))
    with FlopCounterMode(display=False, custom_mapping=_ATTENTION) as counter:
        _pass(step, inputs, settings)
    handle.remove()
    with FlopCounterMode(display=False, custom_mapping=_ATTENTION) as forward:
        step.policy_errors(inputs)
    step.family.transformer.zero_grad(set_to_none=True)
    return {
        "total": float(counter.get_total_flops()),
        "forward": float(forward.get_total_flops()),
        "tokens": seen[0],
    }


def _track(step: PairForward, inputs: MicroBatch, settings: CostSettings) -> tuple[int, int]:
    transformer = step.family.transformer
    optimizer = torch.optim.AdamW(list(lora_parameters(transformer).values()), foreach=False)
    with _live_bytes() as live:
        for tensor in (*transformer.parameters(), *transformer.buffers()):
            live.note(tensor)
        weights = live.now
        _pass(step, inputs, settings)
        optimizer.step()
        # From the second step on, the optimiser's moments lie there all the time.
        optimizer.zero_grad(set_to_none=True)
        _pass(step, inputs, settings)
    return live.peak, weights


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The bytes of all storages that operations made and nobody has dropped."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self.now += size
        self.peak = max(self.peak, self.now)

        def dropped(_: Any) -> None:
            self.now -= size
            self._seen.pop(key, None)

        self._seen[key] = weakref.ref(storage, dropped)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.note(leaf)
        return out


@contextmanager
def _live_bytes() -> Iterator[_Live]:
    with _Live() as live:
        yield live
