"""A bank of rendered clips and labelled faults for training, and the disguises it wears.

Legend: B clips, T frames, H, W pixels.

A decoded video of the world's generator is frame 1 moved along a coarse flow. Every network that judges such
videos must have seen true clips in that dress (`rewarp`), or it takes the dress for a fault.
Legend: N clips, T frames, H, W pixels, h, w flow cells (4 pixels).

Boxes that slide uncover floor, so a faulty clip has to be rendered and encoded; the examples of the generator
with that fault are such clips already. Both labels get the same raggedness and degradations.
Legend: B clips, C latent channels, h, w latent cells.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from pipeline.world.cameras import MOVES
from pipeline.world.clips import render_prompt, world_prompts
from pipeline.world.codec import MotionCodec
from pipeline.world.motion import flow_to_first, pixel_grid, sample_at
from pipeline.world.training.common import save_safetensors
from pipeline.world.training.dataset import Examples, augment


@dataclass(frozen=True, kw_only=True)
class LabelledClips:
    """Frames [B, T, H, W, 3] in [0, 1], whether each is faulty (1.0) and the index of its move."""

    frames_BTHW3: Tensor
    fault_B: Tensor
    move_B: Tensor

    def to(self, device: str) -> LabelledClips:
        """The same on a device."""
        return LabelledClips(
            frames_BTHW3=self.frames_BTHW3.to(device),
            fault_B=self.fault_B.to(device),
            move_B=self.move_B.to(device),
        )


CELL: Final = 4
_MOVE_INDEX: Final = {move.name: index for index, move in enumerate(MOVES)}


@dataclass(frozen=True, kw_only=True)
class ClipBank:
    """True clips: frames uint8, depth float16 (metres), w2c float32, backward flow float16, move index."""

    frames_NTHW3: Tensor
    depth_NTHW: Tensor
    w2c_NT34: Tensor
    flow_NT2hw: Tensor
    move_N: Tensor

    def __len__(self) -> int:
        return int(self.move_N.shape[0])

    def pick(self, index_N: Tensor) -> ClipBank:
        """The clips at those positions."""
        return ClipBank(**{field.name: getattr(self, field.name)[index_N] for field in fields(self)})


def coarse_flow(flow_THW2: Tensor) -> Tensor:
    """The mean of a flow over cells of 4x4 pixels, [T, 2, h, w], still in pixels."""
    return functional.avg_pool2d(flow_THW2.permute(0, 3, 1, 2), CELL)


def render_bank(split: str, count: int, start: int = 0) -> ClipBank:
    """Renders `count` clips of a split, one a scene, the moves in turn."""
    rows: list[tuple[Tensor, ...]] = []
    for prompt in world_prompts(split, count, start):
        clip = render_prompt(prompt)
        flow = coarse_flow(flow_to_first(clip)[0])
        frames = (clip.frames_THW3 * 255).round().to(torch.uint8)
        move = torch.tensor(_MOVE_INDEX[prompt.move])
        rows.append((frames, clip.depth_THW.half(), clip.w2c_T34, flow.half(), move))
    frames, depth, w2c, flow, move = (torch.stack(column) for column in zip(*rows, strict=True))
    return ClipBank(frames_NTHW3=frames, depth_NTHW=depth, w2c_NT34=w2c, flow_NT2hw=flow, move_N=move)


def cached_bank(directory: Path, split: str, count: int, start: int = 0) -> ClipBank:
    """The bank of that split and size, rendered once into `directory` and read from there afterwards.

    `start` is the position of its first clip in the split.
    """
    path = directory / f"bank-{split}-{count}{f'-from-{start}' if start else ''}.safetensors"
    if not path.exists():
        bank = render_bank(split, count, start)
        save_safetensors(path, {field.name: getattr(bank, field.name) for field in fields(bank)})
    return ClipBank(**load_file(path))


def rewarp(first_NHW3: Tensor, flow_NT2hw: Tensor) -> Tensor:
    """Clips [N, T, H, W, 3] in which frame t is the first moved along an upsampled coarse backward flow."""
    count, frames = flow_NT2hw.shape[:2]
    height, width = first_NHW3.shape[1:3]
    dense = functional.interpolate(flow_NT2hw.flatten(0, 1), scale_factor=CELL, mode="bilinear")
    where = pixel_grid(height, width) + dense.permute(0, 2, 3, 1)
    first = first_NHW3.permute(0, 3, 1, 2).repeat_interleave(frames, 0)
    return sample_at(first, where).permute(0, 2, 3, 1).reshape(count, frames, height, width, 3)


def wobble(shape: tuple[int, ...], generator: torch.Generator, pixels: float = 0.2) -> Tensor:
    """Small smooth errors [B, T, 2, h, w] of a coarse flow, independent from frame to frame."""
    noise = pixels * torch.randn(shape[0] * shape[1], 2, 8, 8, generator=generator)
    return functional.interpolate(noise, size=shape[-2:], mode="bilinear").view(shape)


def degrade(frames_NTHW3: Tensor, generator: torch.Generator) -> Tensor:
    """What a codec does to a picture: per clip a slight blur or none, a gain of the colours, noise."""
    count, frames, height, width, _ = frames_NTHW3.shape
    images = frames_NTHW3.permute(0, 1, 4, 2, 3).reshape(-1, 3, height, width)
    soft = functional.avg_pool2d(functional.pad(images, [1] * 4, mode="replicate"), 3, 1)
    soft = soft.reshape(count, frames, 3, height, width)
    amount = torch.rand(count, generator=generator) * (torch.rand(count, generator=generator) < 0.6)
    mixed = torch.lerp(images.reshape_as(soft), soft, 0.8 * amount.view(-1, 1, 1, 1, 1))
    gain = 1 + 0.1 * torch.randn(count, 1, 3, 1, 1, generator=generator)
    level = 0.02 * torch.rand(count, 1, 1, 1, 1, generator=generator)
    noise = level * torch.randn(mixed.shape, generator=generator)
    return (mixed * gain + noise).clamp(0, 1).permute(0, 1, 3, 4, 2)


_RAGGED = 0.35  # pixels


def move_of(text: str) -> int:
    """The index of the camera move that a prompt asks for. Raises ValueError when it asks for none."""
    # The longest phrase wins: one may contain another.
    found = [(len(move.phrase), index) for index, move in enumerate(MOVES) if move.phrase in text]
    if not found:
        raise ValueError(f"text: must contain the phrase of a camera move, got {text!r}; see cameras.MOVES")
    return max(found)[1]


@torch.no_grad()
def decoded_batch(
    codec: MotionCodec, examples: Examples, size: int, generator: torch.Generator
) -> LabelledClips:
    """A random batch of decoded examples, mirrored and recoloured at random, ragged and degraded alike."""
    chosen_B = torch.randint(len(examples.texts), (size,), generator=generator)
    first_B3HW, motion_BChw, texts = augment(examples, chosen_B, generator)
    image_BChw = codec.encode_image(first_B3HW)
    shown_BHW3 = ((codec.decode_image(image_BChw).clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1)
    flow_BT2hw = codec.motion_of(torch.stack([image_BChw, motion_BChw], dim=2))
    ragged = wobble(tuple(flow_BT2hw.shape), generator, _RAGGED)
    flow_BT2hw = flow_BT2hw + ragged * torch.rand(size, 1, 1, 1, 1, generator=generator)
    later = rewarp(shown_BHW3, flow_BT2hw)
    frames = torch.cat([((first_B3HW + 1) / 2).permute(0, 2, 3, 1)[:, None], later], 1)
    return LabelledClips(
        frames_BTHW3=degrade(frames, generator),
        fault_B=examples.faulty_N[chosen_B].float(),
        move_B=torch.tensor([move_of(text) for text in texts]),
    )
