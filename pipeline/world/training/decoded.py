"""Labelled clips as the generator's codec shows them, for the referee of a fault that no flow can compose.

Boxes that slide uncover floor, so a faulty clip has to be rendered and encoded; the examples of the generator
with that fault are such clips already. Both labels get the same raggedness and degradations.
Legend: B clips, C latent channels, h, w latent cells.
"""

from __future__ import annotations

import torch

from pipeline.world.cameras import MOVES
from pipeline.world.codec import MotionCodec
from pipeline.world.training.bank import degrade, rewarp, wobble
from pipeline.world.training.dataset import Examples, augment
from pipeline.world.training.labelled import LabelledClips

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
