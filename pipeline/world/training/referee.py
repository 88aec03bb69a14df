"""Training of the referee on labelled clean and faulty clips, raw and in the dress of a decoded video.

Both labels get the same degradations, so that neither the codec nor softness is the cue.
Legend: B clips, T frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.world.cameras import MOVES
from pipeline.world.corruptions import apply_field, smooth_fields
from pipeline.world.motion import sample_at
from pipeline.world.referee import Referee, RefereeConfig, referee_inputs
from pipeline.world.training.bank import (
    CELL,
    ClipBank,
    LabelledClips,
    cached_bank,
    decoded_batch,
    degrade,
    rewarp,
    wobble,
)
from pipeline.world.training.common import Course, Report, train_model
from pipeline.world.training.dataset import prepare_examples

_SWAPS: Final = (("left", "right"), ("right", "left"))


@dataclass(frozen=True, kw_only=True)
class RefereeTraining:
    """How long and on which faults the referee is trained.

    `weakest` and `strongest` bound warps, in root mean square pixels at the last frame; another family of
    `fault` is learnt from `clips` examples of the generator with that fault. `initial` is a referee's folder
    that training begins from instead of random weights.
    """

    steps: int = 700
    batch_size: int = 24
    clips: int = 4000
    weakest: float = 1.5
    strongest: float = 4.5
    rewarp_share: float = 0.5
    muon_lr: float = 3e-3
    adam_lr: float = 2e-3
    seed: int = 0
    save_every: int = 100
    fault: str = "warp"
    initial: Path | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "clips", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"RefereeTraining.{name}: must be at least 1, got {getattr(self, name)}")
        if not 0 < self.weakest <= self.strongest:
            raise ValueError(
                f"RefereeTraining.weakest: must lie in (0, {self.strongest}], got {self.weakest}; lower it"
            )


def mirrored_moves() -> Tensor:
    """For each move the index of what it becomes in a mirror."""
    names = [move.name for move in MOVES]
    table = dict(_SWAPS)
    mirrored = ["_".join(table.get(word, word) for word in name.split("_")) for name in names]
    return torch.tensor([names.index(name) for name in mirrored])


def growing_fields(
    count: int, frames: int, size: int, low: float, high: float, generator: torch.Generator
) -> Tensor:
    """Smooth displacement fields [B, T, H, W, 2] that grow with time to between `low` and `high` pixels."""
    strength = low + (high - low) * torch.rand(count, generator=generator)
    field = smooth_fields(count, size, generator) * strength.view(-1, 1, 1, 1)
    return torch.linspace(0, 1, frames).view(1, -1, 1, 1, 1) * field[:, None]


def coarse_faulty_flow(flow_BT2hw: Tensor, field_BTHW2: Tensor) -> Tensor:
    """Coarse backward flow of the clip after the warp: field(p) + flow(p + field(p)), a cell."""
    field = F.avg_pool2d(field_BTHW2.flatten(0, 1).permute(0, 3, 1, 2), CELL)
    side = field.shape[-1]
    index = torch.arange(side, dtype=torch.float32)
    grid = torch.stack(torch.meshgrid(index, index, indexing="xy"), -1)
    where = grid + field.permute(0, 2, 3, 1) / CELL
    return (field + sample_at(flow_BT2hw.flatten(0, 1), where)).view_as(flow_BT2hw)


def labelled_clips(bank: ClipBank, training: RefereeTraining, generator: torch.Generator) -> LabelledClips:
    """Half of the clips faulty, half (independently) rewarped, all degraded alike."""
    frames, flow = bank.frames_NTHW3.float() / 255, bank.flow_NT2hw.float()
    count, length, size = frames.shape[:3]
    fault = torch.rand(count, generator=generator) < 0.5
    field = growing_fields(count, length, size, training.weakest, training.strongest, generator)
    field = field * fault.view(-1, 1, 1, 1, 1)
    raw = torch.stack([apply_field(clip, warp) for clip, warp in zip(frames, field, strict=True)])
    # Samples of a generator are ragged to a varying degree, clean or not.
    ragged = wobble(tuple(flow.shape), generator, 0.35) * torch.rand(count, 1, 1, 1, 1, generator=generator)
    moved = rewarp(frames[:, 0], coarse_faulty_flow(flow, field) + ragged)
    moved[:, 0] = frames[:, 0]
    dressed = torch.rand(count, generator=generator) < training.rewarp_share
    shown = torch.where(dressed.view(-1, 1, 1, 1, 1), moved, raw)
    return LabelledClips(frames_BTHW3=degrade(shown, generator), fault_B=fault.float(), move_B=bank.move_N)


def _make_batch(bank: ClipBank, training: RefereeTraining, generator: torch.Generator) -> LabelledClips:
    """A random labelled batch, mirrored at random (left moves become right ones), colours permuted."""
    picked = bank.pick(torch.randint(len(bank), (training.batch_size,), generator=generator))
    clips = labelled_clips(picked, training, generator)
    frames, move = clips.frames_BTHW3[..., torch.randperm(3, generator=generator)], clips.move_B
    if torch.rand((), generator=generator) < 0.5:
        frames, move = frames.flip(3), mirrored_moves()[move]
    return LabelledClips(frames_BTHW3=frames, fault_B=clips.fault_B, move_B=move)


def _batches(work: Path, training: RefereeTraining) -> Callable[[torch.Generator], LabelledClips]:
    """Random labelled batches of the family of faults."""
    if training.fault == "warp":
        bank = cached_bank(work, "train", training.clips)
        return lambda generator: _make_batch(bank, training, generator)
    codec, examples = prepare_examples(work / "examples", training.clips, fault=training.fault)
    return lambda generator: decoded_batch(codec, examples, training.batch_size, generator)


def train_referee(
    out_dir: Path,
    training: RefereeTraining | None = None,
    config: RefereeConfig | None = None,
    report: Report | None = None,
    device: str = "cpu",
) -> Path:
    """Trains, or resumes, in `out_dir`; writes the averaged weights to a folder in it, which is returned.

    Batches are made on the CPU. Every random draw depends on the seed and the step alone, so a resumed run
    equals an uninterrupted one.
    """
    training, config = training or RefereeTraining(), config or RefereeConfig()
    name = "referee" if training.fault == "warp" else f"referee-{training.fault}"
    batches = _batches(out_dir, training)
    torch.manual_seed(training.seed)
    model = (Referee.from_pretrained(training.initial) if training.initial else Referee(config)).train()
    config = model.config
    model = model.to(device)

    def loss(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return _referee_loss(model, batches(generator).to(device))

    course = Course(
        name=name,
        state=out_dir / f"{name}-state.safetensors",
        curve=out_dir / f"{name}-curve.jsonl",
        steps=training.steps,
        seed=training.seed,
        save_every=training.save_every,
        muon_lr=training.muon_lr,
        adam_lr=training.adam_lr,
        decay=0.995,
        device=device,
    )
    averaged = Referee(config)
    averaged.load_state_dict(train_model(model, course, loss, report).tensors)
    averaged.save_pretrained(out_dir / name)
    return out_dir / name


def _referee_loss(model: Referee, clips: LabelledClips) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropies of fault and move, and how many of each are right."""
    verdict = model(torch.cat([referee_inputs(chunk) for chunk in torch.split(clips.frames_BTHW3, 4)]))
    fault_loss = F.binary_cross_entropy_with_logits(verdict.fault_B, clips.fault_B)
    loss = fault_loss + 0.5 * F.cross_entropy(verdict.moves_BM, clips.move_B)
    right = ((verdict.fault_B > 0) == (clips.fault_B > 0.5)).float().mean().item()
    moved = (verdict.moves_BM.argmax(1) == clips.move_B).float().mean().item()
    values = {
        "loss": loss.item(),
        "fault_loss": fault_loss.item(),
        "fault_accuracy": right,
        "move_accuracy": moved,
    }
    return loss, values
