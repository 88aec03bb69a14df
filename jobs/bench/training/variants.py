"""One training step, done the obvious way and done as the trainer does it, on random latents.

Legend: B pairs of a step, M pairs of a micro-batch, X the axes of a latent video.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from jobs.bench.training.architectures import architecture
from storage.errors import UserError
from trainer.data import MicroBatch, PairBatch, draw_from
from trainer.families import load_family
from trainer.families.base import Condition, Family, PairShapes
from trainer.lora import attach_lora, lora_parameters
from trainer.objectives import PairErrors, preference_loss
from trainer.setup import DTYPES, compile_blocks
from trainer.step import PairForward, noised, per_sample_mse

OBVIOUS, FRESH, CACHED = "obvious", "gpa", "gpa, references cached"
RunStep = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What every variant does: a step of B pairs of the model in a folder, or of a published architecture."""

    model_dir: Path | None
    architecture: str | None
    shapes: PairShapes
    pairs: int
    rank: int
    precision: str
    device: str
    gradient_checkpointing: bool
    beta: float = 500.0
    seed: int = 0

    def family(self) -> Family:
        """The model, without an adapter."""
        dtype = DTYPES[self.precision]
        if self.model_dir is not None:
            return load_family(self.model_dir, dtype)
        return architecture(self.architecture or "").build(dtype, self.device)

    def shell(self) -> Family:
        """The model's shapes without weights."""
        if self.model_dir is not None:
            return load_family(self.model_dir, DTYPES[self.precision], weights=False)
        return architecture(self.architecture or "").build(DTYPES[self.precision], "meta")


def shapes_of(family: Family, num_frames: int) -> PairShapes:
    """The shapes of pairs of a CogVideoX at the size that its configuration names. Raises UserError."""
    config = family.transformer.config
    if family.name != "cogvideox":
        raise UserError(
            f"the configuration of a {family.name} names no video size: take the preset of a published model"
        )
    frames = (num_frames - 1) // config.temporal_compression_ratio + 1
    latent = (frames, config.out_channels, config.sample_height, config.sample_width)
    return PairShapes(
        latent=latent,
        prompt=(config.max_text_seq_length, config.text_embed_dim),
        image=latent if config.in_channels == 2 * config.out_channels else None,
        num_frames=num_frames,
    )


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to take the step, in micro-batches of M pairs."""

    name: str
    kind: str
    micro: int
    compiled: bool = False


def prepare(workload: Workload, variant: Variant) -> RunStep:
    """Load the model and make the inputs; the function that comes back takes a step and gives its loss."""
    device = torch.device(workload.device)
    family = workload.family()
    family.transformer.to(device)
    reference = copy.deepcopy(family.transformer).requires_grad_(False) if variant.kind == OBVIOUS else None
    attach_lora(family.transformer, workload.rank, 2 * workload.rank, family.lora_targets, workload.seed)
    if workload.gradient_checkpointing:
        family.transformer.enable_gradient_checkpointing()
    family.transformer.train()
    if variant.compiled:
        compile_blocks(family.transformer)
    parameters = list(lora_parameters(family.transformer).values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-5)
    batches = [
        _make_inputs(workload, first, variant.micro) for first in range(0, workload.pairs, variant.micro)
    ]
    loss_weight_X = family.loss_weight(workload.shapes)
    if reference is not None:
        compute = _obvious(family, reference, loss_weight_X, workload.beta, len(batches))
    else:
        compute = _ours(family, loss_weight_X, workload, variant, batches)

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = sum(compute(inputs) for inputs in batches)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss

    return run


def _make_inputs(workload: Workload, first: int, count: int) -> MicroBatch:
    """Random pairs `first` to `first + count`, the same for every variant, on the device."""
    device, shapes = torch.device(workload.device), workload.shapes
    generators = [torch.Generator().manual_seed(workload.seed + first + i) for i in range(count)]

    def random(shape: tuple[int, ...]) -> Tensor:
        return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)

    condition = Condition(
        prompt_BLD=random(shapes.prompt),
        image_BX=None if shapes.image is None else random(shapes.image),
        image_embeds_BLD=None if shapes.image_embeds is None else random(shapes.image_embeds),
    )
    noise_BX, timestep_index_B = draw_from(range(first, first + count), shapes.latent, (0, 999))
    return MicroBatch(
        batch=PairBatch(
            pair_ids=tuple(str(first + i) for i in range(count)),
            winner_BX=random(shapes.latent),
            loser_BX=random(shapes.latent),
            condition=condition,
        ),
        noise_BX=noise_BX,
        timestep_index_B=timestep_index_B,
    )


def _obvious(
    family: Family, reference: nn.Module, loss_weight_X: Tensor | None, beta: float, micros: int
) -> Callable[[MicroBatch], float]:
    """Two models and four forward passes: policy and reference, winner and loser, each on its own."""

    def compute(inputs: MicroBatch) -> float:
        winners = noised(family, inputs, inputs.batch.winner_BX, loss_weight_X)
        losers = noised(family, inputs, inputs.batch.loser_BX, loss_weight_X)
        policy = [per_sample_mse(family, family.transformer, side) for side in (winners, losers)]
        with torch.no_grad():
            base = [per_sample_mse(family, reference, side) for side in (winners, losers)]
        pairs = PairErrors(
            policy_win_B=policy[0],
            policy_lose_B=policy[1],
            reference_win_B=base[0],
            reference_lose_B=base[1],
        )
        loss, _ = preference_loss("dpo", pairs, beta)
        (loss / micros).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()) / micros

    return compute


def _ours(
    family: Family,
    loss_weight_X: Tensor | None,
    workload: Workload,
    variant: Variant,
    batches: Sequence[MicroBatch],
) -> Callable[[MicroBatch], float]:
    step = PairForward(
        family=family,
        model=family.transformer,
        objective="dpo",
        beta=workload.beta,
        loss_weight_X=loss_weight_X,
    )
    cached = (
        {id(inputs): step.reference_errors(inputs) for inputs in batches} if variant.kind == CACHED else {}
    )

    def compute(inputs: MicroBatch) -> float:
        found: list[float] = []

        def backward(loss: Tensor, _: dict[str, Tensor]) -> None:
            (loss / len(batches)).backward()  # type: ignore[no-untyped-call]
            found.append(float(loss.detach()) / len(batches))

        step.run(inputs, cached.get(id(inputs)), backward)
        return found[0]

    return compute
