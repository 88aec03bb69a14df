"""What `gpa bench score` scores: a clip in a file, a geometry model and a perceptual net.

Shape legend: T frames, H height, W width.

Shape legend: T frames, V views, H height, W width, N points (T*H*W).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.world.clips import render_prompt, world_prompts
from rewards.errors import RewardError
from rewards.geometry.backends import load_backend
from rewards.geometry.reconstruction import GeometryBackend, Reconstruction
from rewards.measures.backbones import BACKBONES
from rewards.measures.perceptual import Perceptual, load_perceptual
from rewards.rasterise.zbuffer import backproject
from storage.media.video import write_video

_RANDOM = "random"
_FPS = 8


@dataclass(frozen=True, kw_only=True)
class ClipSize:
    """Frames and pixels of the clip; the default is the world's own. ValueError below 2 frames, 16 pixels."""

    frames: int = 9
    height: int = 64
    width: int = 64

    def __post_init__(self) -> None:
        for name, least in (("frames", 2), ("height", 16), ("width", 16)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} of a clip must be at least {least}, got {getattr(self, name)}")


def write_clip(path: Path, size: ClipSize) -> None:
    """A held-out clip of the world as an mp4, stretched in time and space to `size`."""
    frames_THW3 = render_prompt(world_prompts("test", 1)[0]).frames_THW3
    shape = (size.frames, size.height, size.width)
    if tuple(frames_THW3.shape[:3]) != shape:
        video_1CTHW = frames_THW3.permute(3, 0, 1, 2)[None]
        video_1CTHW = F.interpolate(video_1CTHW, size=shape, mode="trilinear", align_corners=True)
        frames_THW3 = video_1CTHW[0].permute(1, 2, 3, 0)
    write_video(path, (frames_THW3.clamp(0, 1) * 255).round().to(torch.uint8).numpy(), _FPS)


def load_geometry(name: str, model: str | None, revision: str | None, device: str) -> GeometryBackend:
    """A geometry backend; `random` as the model of vggt is the published architecture at random weights.

    Raises RewardError for what `rewards.geometry.backends.load_backend` refuses and for `random` elsewhere.
    """
    if model != _RANDOM:
        return load_backend(name, model=model, revision=revision, device=device)
    if name != "vggt":
        raise RewardError(
            f"geometry {name!r} has no random weights; use --geometry vggt, or give it a --geometry-model"
        )
    return random_vggt(device)


class RandomGeometry:
    """A model of random weights, for timing: its forward pass runs, and what it says is replaced.

    What random weights see cannot be splatted; instead the clip is taken as a wall at depth 1 that a camera
    slides along, a pixel a frame, so that every later stage has its ordinary work.
    """

    revision = "random"
    license = "none"

    def __init__(self, backend: GeometryBackend) -> None:
        self.name, self.model, self._backend = backend.name, f"{backend.name}, random weights", backend

    def reconstruct(self, frames_THW3: Tensor) -> Reconstruction:
        """The wall, at the size that the model works at."""
        seen = self._backend.reconstruct(frames_THW3)
        frames, height, width = seen.depth_THW.shape
        intrinsics_T33, w2c_T34 = torch.zeros_like(seen.intrinsics_T33), torch.zeros_like(seen.w2c_T34)
        intrinsics_T33[:, 0, 0] = intrinsics_T33[:, 1, 1] = width
        intrinsics_T33[:, 0, 2], intrinsics_T33[:, 1, 2] = (width - 1) / 2, (height - 1) / 2
        intrinsics_T33[:, 2, 2] = 1
        w2c_T34[:, :, :3] = torch.eye(3, device=w2c_T34.device)
        w2c_T34[:, 0, 3] = torch.arange(frames, device=w2c_T34.device) / width
        return Reconstruction(
            frames_THW3=seen.frames_THW3,
            depth_THW=torch.ones_like(seen.depth_THW),
            confidence_THW=torch.ones_like(seen.confidence_THW),
            intrinsics_T33=intrinsics_T33,
            w2c_T34=w2c_T34,
        )


def random_vggt(device: str, config: Any = None) -> RandomGeometry:
    """VGGT (1B unless a smaller VGGTConfig is given) at random weights."""
    from rewards.geometry.vggt.backend import VGGTBackend
    from rewards.geometry.vggt.config import VGGTConfig
    from rewards.geometry.vggt.model import VGGT
    from rewards.geometry.vggt.weights import VGGTWeights

    config = config or VGGTConfig(track=False)
    with torch.device(device):
        network = VGGT(config).requires_grad_(False).eval()
    weights = VGGTWeights(model=_RANDOM, revision=_RANDOM, license="none", weights=Path(), config=config)
    return RandomGeometry(VGGTBackend(network, weights))


class RandomLpips:
    """LPIPS whose backbone has random weights, for timing."""

    def __init__(self, name: str, device: str) -> None:
        import lpips

        self.name = f"{name}, random weights"
        with warnings.catch_warnings():  # lpips passes torchvision's old argument names
            warnings.simplefilter("ignore")
            network = lpips.LPIPS(net=BACKBONES[name].net, pnet_rand=True, verbose=False)
        self._network = network.to(device).requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(self, images_THW3: Tensor, frames_THW3: Tensor) -> Tensor:
        """Distance per frame, T, frame by frame as the real one."""
        pairs = zip(images_THW3.permute(0, 3, 1, 2), frames_THW3.permute(0, 3, 1, 2), strict=True)
        return torch.stack([self._network(a[None], b[None], normalize=True).reshape(()) for a, b in pairs])


def load_perceptual_or_random(name: str, device: str) -> Perceptual | None:
    """The perceptual term; LPIPS at random weights where its backbone is missing."""
    try:
        return load_perceptual(name, device=device)
    except RewardError:
        if name not in BACKBONES:
            raise
        return RandomLpips(name, device)


@dataclass(frozen=True, kw_only=True)
class CloudSize:
    """`frames` frames of `height` x `width` pixels, drawn into `views` views; ValueError below 1."""

    frames: int = 10
    views: int = 10
    height: int = 288
    width: int = 518

    def __post_init__(self) -> None:
        for name in ("frames", "views", "height", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """A coloured cloud and the cameras it is drawn into, named as `splat_views` takes them."""

    points_N3: Tensor
    colors_N3: Tensor
    intrinsics_V33: Tensor
    w2c_V34: Tensor
    height: int
    width: int

    def to(self, device: str) -> Cloud:
        """The same on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Cloud(**moved, height=self.height, width=self.width)


def make_cloud(size: CloudSize, device: str = "cpu") -> Cloud:
    """Flat panels before a wavy wall, seen by a camera that first slides and then turns.

    The wall is uneven by half a per cent, as a network's depth is. The panels have one depth: as long as the
    camera slides, points of several frames share a pixel and a depth, so that ties are frequent.
    """
    generator = torch.Generator().manual_seed(0)
    v_H1 = torch.linspace(0, 9, size.height)[:, None]
    u_W = torch.linspace(0, 16, size.width)
    step_T11 = torch.arange(size.frames)[:, None, None] / 4
    panel_THW = (u_W + step_T11).sin() * (v_H1 + step_T11).cos() > 0.3
    uneven_THW = 1 + 0.005 * torch.randn(panel_THW.shape, generator=generator)
    wall_THW = (3 + 0.2 * (u_W * 1.7).sin() * v_H1.cos()) * uneven_THW
    depth_THW = torch.where(panel_THW, 1.5, wall_THW)
    intrinsics_V33, w2c_V34 = _cameras(max(size.frames, size.views), size.height, size.width)
    cameras_T = intrinsics_V33[: size.frames], w2c_V34[: size.frames]
    points_N3 = backproject(depth_THW, *cameras_T).view(-1, 3)
    colors_N3 = torch.rand(len(points_N3), 3, generator=generator)
    return Cloud(
        points_N3=points_N3,
        colors_N3=colors_N3,
        intrinsics_V33=intrinsics_V33[: size.views],
        w2c_V34=w2c_V34[: size.views],
        height=size.height,
        width=size.width,
    ).to(device)


def _cameras(count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Intrinsics and w2c of a camera that slides by pixels of the far wall, then turns by half a degree."""
    intrinsics_33 = torch.tensor([[width, 0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1.0]])
    w2c_V34 = torch.eye(4)[:3].repeat(count, 1, 1)
    number_V = torch.arange(count)
    angle_V = 0.00873 * (number_V - count // 2).clamp(min=0)
    w2c_V34[:, 0, 0] = w2c_V34[:, 2, 2] = angle_V.cos()
    w2c_V34[:, 0, 2], w2c_V34[:, 2, 0] = angle_V.sin(), -angle_V.sin()
    w2c_V34[:, 0, 3] = -3.0 * 4 / width * number_V
    return intrinsics_33.repeat(count, 1, 1), w2c_V34
