"""Labelled faults: what a video model gets wrong about geometry, and two faults of motion and sharpness.

Frame 0 is the condition of an image-to-video model and always stays clean.
Legend: T frames, H, W pixels, F faces, B boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.world.motion import pixel_grid, sample_at
from pipeline.world.render import Clip, render
from pipeline.world.scenes import Scene, stable_seed

Corruption = Callable[[Scene, Clip, float, int], Tensor]
_GRID: Final = 5


def _generator(name: str, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(stable_seed("corruption", name, seed))


def smooth_fields(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Smooth random displacement fields [count, H, W, 2]: zero mean, root mean square length 1 pixel."""
    coarse = torch.randn(count, 2, _GRID, _GRID, generator=generator)
    field = functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)
    field = field - field.mean((2, 3), keepdim=True)
    length = field.square().sum(1).mean((1, 2)).sqrt()
    return (field / length[:, None, None, None]).permute(0, 2, 3, 1)


def warp_field(frames: int, size: int, strength: float, seed: int) -> Tensor:
    """Displacement [T, H, W, 2] of the `warp` fault: one smooth field that grows with time.

    Its root mean square length in the last frame is `strength` pixels. A faulty frame t shows at pixel p what
    the clean one shows at p + field[t, p].
    """
    field_HW2 = smooth_fields(1, size, _generator("warp", seed))[0]
    return torch.linspace(0, strength, frames)[:, None, None, None] * field_HW2


def apply_field(frames_THW3: Tensor, field_THW2: Tensor) -> Tensor:
    """Frames [T, H, W, 3] resampled at pixel + field."""
    height, width = frames_THW3.shape[1:3]
    where = pixel_grid(height, width) + field_THW2
    return sample_at(frames_THW3.permute(0, 3, 1, 2), where).permute(0, 2, 3, 1).contiguous()


def compose_flow(flow_THW2: Tensor, field_THW2: Tensor) -> Tensor:
    """Backward flow to frame 0 of a clip after `apply_field`: field(p) + flow(p + field(p))."""
    height, width = flow_THW2.shape[1:3]
    where = pixel_grid(height, width) + field_THW2
    return field_THW2 + sample_at(flow_THW2.permute(0, 3, 1, 2), where).permute(0, 2, 3, 1)


def warp(scene: Scene, clip: Clip, strength: float, seed: int) -> Tensor:
    """A smooth warp of the picture that grows with time to `strength` pixels; see `warp_field`."""
    count, size = clip.frames_THW3.shape[:2]
    return apply_field(clip.frames_THW3, warp_field(count, size, strength, seed))


def jitter(scene: Scene, clip: Clip, strength: float, seed: int) -> Tensor:
    """An independent smooth warp of every later frame, `strength` pixels root mean square."""
    count, size = clip.frames_THW3.shape[:2]
    field = smooth_fields(count, size, _generator("jitter", seed)) * strength
    field[0] = 0
    return apply_field(clip.frames_THW3, field)


def _render_each(clip: Clip, scenes: list[Scene]) -> Tensor:
    size = clip.frames_THW3.shape[1]
    parts = [render(scene, clip.w2c_T34[t : t + 1], size).frames_THW3 for t, scene in enumerate(scenes)]
    return torch.cat(parts)


def _progress(clip: Clip) -> list[float]:
    return torch.linspace(0, 1, clip.frames_THW3.shape[0]).tolist()


def texture_drift(scene: Scene, clip: Clip, strength: float, seed: int) -> Tensor:
    """Textures slide over their surfaces, each its own way, by `strength` texels at the last frame."""
    faces, _, side, _ = scene.textures_FCSS.shape
    angle_F = torch.rand(faces, generator=_generator("texture_drift", seed)) * (2 * torch.pi)
    shift_F2 = torch.stack([angle_F.cos(), angle_F.sin()], -1) * strength
    base = (pixel_grid(side, side) + 0.5) * (2 / side) - 1

    def drifted(amount: float) -> Scene:
        grid = base + (shift_F2 * (amount * 2 / side))[:, None, None]
        textures = functional.grid_sample(
            scene.textures_FCSS, grid, padding_mode="reflection", align_corners=False
        )
        return replace(scene, textures_FCSS=textures)

    return _render_each(clip, [drifted(amount) for amount in _progress(clip)])


def moving_boxes(scene: Scene, clip: Clip, strength: float, seed: int) -> Tensor:
    """Boxes slide over the floor, each in its own direction, by `strength` metres at the last frame."""
    boxes = scene.box_count
    angle_B = torch.rand(boxes, generator=_generator("moving_boxes", seed)) * (2 * torch.pi)
    step_B3 = torch.zeros(boxes + 1, 3)
    step_B3[1:, 0], step_B3[1:, 2] = angle_B.cos() * strength, angle_B.sin() * strength

    def moved(amount: float) -> Scene:
        shift = step_B3 * amount
        return replace(scene, low_B3=scene.low_B3 + shift, high_B3=scene.high_B3 + shift)

    return _render_each(clip, [moved(amount) for amount in _progress(clip)])


def deforming_boxes(scene: Scene, clip: Clip, strength: float, seed: int) -> Tensor:
    """Boxes grow or shrink per side by a factor 1 + `strength` at the last frame, feet on the floor."""
    sign_B3 = torch.randn(scene.box_count, 3, generator=_generator("deforming_boxes", seed)).sign()
    size_B3 = scene.high_B3[1:] - scene.low_B3[1:]

    def deformed(amount: float) -> Scene:
        new_size = size_B3 * (1 + strength * amount) ** sign_B3
        low, high = scene.low_B3.clone(), scene.high_B3.clone()
        middle = (low[1:] + high[1:]) / 2
        low[1:], high[1:] = middle - new_size / 2, middle + new_size / 2
        high[1:, 1] = scene.high_B3[1:, 1]
        low[1:, 1] = high[1:, 1] - new_size[:, 1]
        return replace(scene, low_B3=low, high_B3=high)

    return _render_each(clip, [deformed(amount) for amount in _progress(clip)])


def frozen(scene: Scene, clip: Clip, strength: float, seed: int) -> Tensor:
    """The camera moves at 1 - `strength` of its speed: at 1 every frame is the first one."""
    size = clip.frames_THW3.shape[1]
    times = torch.arange(clip.frames_THW3.shape[0]) * (1 - strength)
    return render(scene, clip.w2c_T34[times.round().long()], size).frames_THW3


def blur(scene: Scene, clip: Clip, strength: float, seed: int) -> Tensor:
    """Gaussian blur of every later frame with a sigma of `strength` pixels."""
    radius = max(1, round(3 * strength))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / strength) ** 2)
    taps = taps / taps.sum()
    images = functional.pad(clip.frames_THW3.permute(0, 3, 1, 2), [radius] * 4, mode="replicate")
    kernel = taps.repeat(3, 1)
    images = functional.conv2d(images, kernel[:, None, None, :], groups=3)
    images = functional.conv2d(images, kernel[:, None, :, None], groups=3)
    return torch.cat([clip.frames_THW3[:1], images.permute(0, 2, 3, 1)[1:]])


CORRUPTIONS: Final[dict[str, Corruption]] = {
    "warp": warp,
    "jitter": jitter,
    "texture_drift": texture_drift,
    "moving_boxes": moving_boxes,
    "deforming_boxes": deforming_boxes,
    "frozen": frozen,
    "blur": blur,
}
# What figures are reported for: pixels, pixels, texels, metres, relative size, share of the motion, pixels.
STRENGTHS: Final[dict[str, tuple[float, ...]]] = {
    "warp": (0.75, 1.5, 3.0),
    "jitter": (0.75, 1.5, 3.0),
    "texture_drift": (1.5, 3.0, 6.0),
    "moving_boxes": (0.15, 0.3, 0.6),
    "deforming_boxes": (0.15, 0.3, 0.6),
    "frozen": (1.0,),
    "blur": (1.0, 2.0),
}


def corrupt(name: str, scene: Scene, clip: Clip, strength: float, seed: int) -> Tensor:
    """Frames [T, H, W, 3] of the clip with the named fault; ValueError lists the names."""
    if name not in CORRUPTIONS:
        raise ValueError(f"corruption: must be one of {', '.join(CORRUPTIONS)}, got {name!r}")
    return CORRUPTIONS[name](scene, clip, strength, seed)
