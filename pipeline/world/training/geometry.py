"""Training of the world's geometry networks on true clips, most of them in the dress of a decoded video.

Legend: B clips, T frames, H, W pixels; lengths in units of the mean depth of frame 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.world.training.bank import ClipBank, cached_bank, degrade, rewarp, wobble
from pipeline.world.training.common import Course, Report, WeightAverage, train_model
from rewards.geometry.world.matching import match_to_first
from rewards.geometry.world.network import GeometryPrediction, WorldGeometry, WorldGeometryConfig, pose_to_w2c

# The judge of `gpa evaluate` is narrower and deeper than the network of the reward, and learns from other
# scenes: what the reward's network is mistaken about, it need not be.
JUDGE: Final = WorldGeometryConfig(width=96, heads=3, layers=4)


@dataclass(frozen=True, kw_only=True)
class GeometryTraining:
    """How long and on what a geometry network is trained; its clips begin at position `first_clip`."""

    steps: int = 1200
    batch_size: int = 8
    frames: int = 5
    clips: int = 4000
    first_clip: int = 0
    rewarp_share: float = 0.5
    warp_share: float = 0.1
    muon_lr: float = 2e-3
    adam_lr: float = 2e-3
    seed: int = 0
    save_every: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "frames", "clips", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"GeometryTraining.{name}: must be at least 1, got {getattr(self, name)}")
        if self.first_clip < 0:
            raise ValueError(f"GeometryTraining.first_clip: must be at least 0, got {self.first_clip}")


@dataclass(frozen=True, kw_only=True)
class GeometryTarget:
    """True geometry in the network's units: pose relative to frame 0, depth, confidence not included."""

    w2c_BT34: Tensor
    depth_BTHW: Tensor

    def at(self, times_T: Tensor) -> GeometryTarget:
        """The target of those frames."""
        return GeometryTarget(w2c_BT34=self.w2c_BT34[:, times_T], depth_BTHW=self.depth_BTHW[:, times_T])

    def to(self, device: str) -> GeometryTarget:
        """The same on a device."""
        return GeometryTarget(w2c_BT34=self.w2c_BT34.to(device), depth_BTHW=self.depth_BTHW.to(device))


def relative_target(bank: ClipBank) -> GeometryTarget:
    """Frame 0 becomes the world frame and the mean of its depth the unit of length."""
    depth = bank.depth_NTHW.float()
    unit = depth[:, 0].mean((1, 2))
    rotation, translation = bank.w2c_NT34[:, :, :, :3], bank.w2c_NT34[:, :, :, 3]
    relative = rotation @ rotation[:, :1].transpose(2, 3)
    moved = translation - (relative @ translation[:, :1, :, None])[..., 0]
    w2c = torch.cat([relative, (moved / unit[:, None, None])[..., None]], -1)
    return GeometryTarget(w2c_BT34=w2c, depth_BTHW=depth / unit[:, None, None, None])


def mirror(frames: Tensor, target: GeometryTarget) -> tuple[Tensor, GeometryTarget]:
    """Frames and target of the clips as a mirror shows them: x changes sign."""
    sign = torch.tensor([-1.0, 1.0, 1.0])
    w2c = target.w2c_BT34 * sign[:, None] * torch.tensor([-1.0, 1.0, 1.0, 1.0])
    return frames.flip(3), GeometryTarget(w2c_BT34=w2c, depth_BTHW=target.depth_BTHW.flip(3))


def _dressed_frames(bank: ClipBank, training: GeometryTraining, generator: torch.Generator) -> Tensor:
    """Frames [B, T, H, W, 3]: raw or moved first frames, some with a slight growing warp; then degraded."""
    frames = bank.frames_NTHW3.float() / 255
    count = len(bank)
    flow = bank.flow_NT2hw.float()
    warped = torch.rand(count, generator=generator) < training.warp_share
    fields = F.interpolate(
        torch.randn(count, 2, 5, 5, generator=generator), size=flow.shape[-2:], mode="bicubic"
    )
    growth = torch.linspace(0, 1.5, flow.shape[1]).view(1, -1, 1, 1, 1) * warped.view(-1, 1, 1, 1, 1)
    moved = rewarp(frames[:, 0], flow + growth * fields[:, None] + wobble(tuple(flow.shape), generator))
    moved[:, 0] = frames[:, 0]
    chosen = warped | (torch.rand(count, generator=generator) < training.rewarp_share)
    return degrade(torch.where(chosen.view(-1, 1, 1, 1, 1), moved, frames), generator)


def _make_batch(
    bank: ClipBank, training: GeometryTraining, generator: torch.Generator
) -> tuple[Tensor, GeometryTarget]:
    """A random batch: frames [B, T, 3, H, W] and its target; mirrored at random, colours permuted."""
    picked = bank.pick(torch.randint(len(bank), (training.batch_size,), generator=generator))
    frames, target = _dressed_frames(picked, training, generator), relative_target(picked)
    if torch.rand((), generator=generator) < 0.5:
        frames, target = mirror(frames, target)
    frames = frames[..., torch.randperm(3, generator=generator)]
    return frames.permute(0, 1, 4, 2, 3).contiguous(), target


def rotation_angle(first: Tensor, second: Tensor) -> Tensor:
    """Angle in radians between rotations [..., 3, 3], from their chord: well-behaved at zero."""
    chord = (first - second).square().sum((-2, -1)).clamp_min(1e-12).sqrt()
    return 2 * torch.asin((chord / 8**0.5).clamp(max=1.0))


def geometry_loss(prediction: GeometryPrediction, target: GeometryTarget) -> tuple[Tensor, dict[str, float]]:
    """Log-depth error weighted by confidence (VGGT, section 3.3), its gradient, translation and rotation."""
    w2c = pose_to_w2c(prediction.pose_encoding_BT9)
    translation = (w2c[..., 3] - target.w2c_BT34[..., 3]).norm(dim=-1)[:, 1:].mean()
    rotation = rotation_angle(w2c[..., :3], target.w2c_BT34[..., :3])[:, 1:].mean()
    difference = prediction.depth_BTHW.log() - target.depth_BTHW.log()
    confidence = prediction.confidence_BTHW
    depth = (confidence * difference.abs() - 0.05 * confidence.log()).mean()
    gradient = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    view = (prediction.pose_encoding_BT9[..., 7:] - torch.pi / 3).abs().mean()
    loss = depth + gradient + 4 * translation + 12 * rotation + view
    values = {
        "loss": loss.item(),
        "depth": difference.detach().abs().mean().item(),
        "rotation_degrees": rotation.item() * 180 / torch.pi,
        "translation": translation.item(),
    }
    return loss, values


def _random_times(available: int, count: int, generator: torch.Generator) -> Tensor:
    """Frame 0 and a random choice of later ones, in order: attention over nine costs a CPU too much time."""
    later = torch.randperm(available - 1, generator=generator)[: count - 1] + 1
    return torch.cat([torch.zeros(1, dtype=torch.long), later.sort().values])


def train_geometry(
    out_dir: Path,
    training: GeometryTraining | None = None,
    config: WorldGeometryConfig | None = None,
    report: Report | None = None,
    device: str = "cpu",
    name: str = "geometry",
) -> Path:
    """Trains, or resumes, in `out_dir`; writes the averaged weights to `out_dir/name`, which is returned.

    Batches are made on the CPU. Every random draw depends on the seed and the step alone, so a resumed run
    equals an uninterrupted one.
    """
    training, config = training or GeometryTraining(), config or WorldGeometryConfig()
    bank = cached_bank(out_dir, "train", training.clips, training.first_clip)
    torch.manual_seed(training.seed)
    model = WorldGeometry(config).to(device)

    def loss(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        frames, target = _make_batch(bank, training, generator)
        times = _random_times(frames.shape[1], training.frames, generator).to(device)
        frames, target = frames.to(device), target.to(device)
        prediction = model(frames[:, times], match_to_first(frames).at(times), times)
        return geometry_loss(prediction, target.at(times))

    course = Course(
        name=name,
        state=out_dir / f"{name}-state.safetensors",
        curve=out_dir / f"{name}-curve.jsonl",
        steps=training.steps,
        seed=training.seed,
        save_every=training.save_every,
        muon_lr=training.muon_lr,
        adam_lr=training.adam_lr,
        clip=True,
        device=device,
    )
    return _save_average(model, train_model(model, course, loss, report), out_dir / name)


def _save_average(model: WorldGeometry, average: WeightAverage, directory: Path) -> Path:
    """Writes the averaged weights as a folder that `WorldGeometry.from_pretrained` reads."""
    averaged = WorldGeometry(model.config)
    averaged.load_state_dict(average.tensors)
    averaged.save_pretrained(directory)
    return directory
