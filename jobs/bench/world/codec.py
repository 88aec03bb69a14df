"""What encoding a true clip from its pixels and decoding it costs, frame by frame.

Legend: N clips, T frames, H W pixels.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from jobs.bench.world.held_out import HeldOut
from jobs.figure_tables import Cell, FigureTable
from pipeline.world.clips import render_prompt
from pipeline.world.codec import MotionCodec
from rewards.measures.quality import psnr

MODELS: Final = ("generator",)


def round_trip(codec: MotionCodec, frames_THW3: Tensor) -> Tensor:
    """A clip in [0, 1] after encoding and decoding."""
    video = frames_THW3.permute(3, 0, 1, 2)[None] * 2 - 1
    latents = codec.encode(video, return_dict=False)[0]
    decoded: Tensor = codec.decode(latents, return_dict=False)[0][0]
    frames = decoded.permute(1, 2, 3, 0) / 2 + 0.5
    return frames.clamp(0, 1)


@torch.no_grad()
def measure(held_out: HeldOut) -> list[FigureTable]:
    """PSNR per frame, from RGB alone; the mean is over frames, then over clips."""
    kept, repeated = [], []
    for prompt in held_out.each("codec", held_out.clip_prompts):
        frames = render_prompt(prompt).frames_THW3
        kept.append(psnr(round_trip(held_out.codec, frames), frames))
        repeated.append(psnr(frames[:1], frames))
    kept_NT, repeated_NT = torch.stack(kept), torch.stack(repeated)
    frames_count = kept_NT.shape[1]
    parts = {"mean": slice(0, frames_count), f"mean of 2-{frames_count}": slice(1, frames_count)}
    parts |= {str(frame + 1): slice(frame, frame + 1) for frame in range(frames_count)}
    rows: list[tuple[Cell, ...]] = []
    for name, part in parts.items():
        clip_N, still = kept_NT[:, part].mean(1), repeated_NT[:, part].mean()
        # Repeating frame 1 has no error at frame 1, so it has no figure there.
        rows.append((name, float(clip_N.mean()), float(clip_N.min()), float(still) if part.start else None))
    return [
        FigureTable(
            subject="codec",
            title="Codec: PSNR in dB after encoding from RGB and decoding",
            counts={"clips": len(kept)},
            columns=("frame", "psnr", "worst clip", "repeating frame 1"),
            rows=tuple(rows),
        )
    ]
