"""Samples of the generator against the true clips of their prompts, and the referee's opinion of them.

Legend: P prompts, S seeds, T frames.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from jobs.bench.world.held_out import HeldOut
from jobs.figure_tables import Cell, FigureTable
from pipeline.evaluation.comparison import bootstrap
from pipeline.world.cameras import MOVES
from pipeline.world.clips import render_prompt
from rewards.measures.quality import psnr

CLEAN: Final = 0.3
FAULTY: Final = 0.7
_MOVE_NAMES: Final = [move.name for move in MOVES]


@torch.no_grad()
def measure(held_out: HeldOut) -> list[FigureTable]:
    """Fidelity at the second and the last frame; prompt following; how often samples are faulty."""
    counts = {"prompts": held_out.prompts, "seeds": held_out.seeds}
    counts["samples"] = held_out.prompts * held_out.seeds
    fidelity = FigureTable(
        subject="generator",
        title="Generator: PSNR in dB to the true clip (the amplitude of a move is free)",
        counts=counts,
        columns=("frame", "samples", "best seed", "repeating frame 1"),
        rows=tuple(_fidelity(held_out)),
    )
    behaviour = FigureTable(
        subject="generator",
        title="Generator: the referee's opinion, with 95 % bootstrap intervals over prompts",
        counts=counts,
        columns=("figure", "value", "low", "high"),
        rows=tuple(_behaviour(held_out)),
    )
    return [fidelity, behaviour]


def _fidelity(held_out: HeldOut) -> list[tuple[Cell, ...]]:
    sampled, repeated = [], []
    for prompt, samples_STHW3 in zip(held_out.sample_prompts, held_out.samples(), strict=True):
        truth = render_prompt(prompt).frames_THW3
        sampled.append(torch.stack([psnr(clip.float() / 255, truth) for clip in samples_STHW3]))
        repeated.append(psnr(truth[:1], truth))
    sampled_PST, repeated_PT = torch.stack(sampled), torch.stack(repeated)
    last = sampled_PST.shape[2]
    parts = {"2": slice(1, 2), str(last): slice(last - 1, last), f"mean of 2-{last}": slice(1, last)}
    return [
        (
            name,
            float(sampled_PST[:, :, part].mean()),
            float(sampled_PST[:, :, part].mean(2).amax(1).mean()),
            float(repeated_PT[:, part].mean()),
        )
        for name, part in parts.items()
    ]


def _fault_and_follow(held_out: HeldOut) -> tuple[Tensor, Tensor]:
    """The referee's fault probability of every sample, and whether it sees the prompted move: both [P, S]."""
    faults, follows = [], []
    for prompt, samples_STHW3 in zip(held_out.sample_prompts, held_out.samples(), strict=True):
        verdict = held_out.referee_of().judge(samples_STHW3.float() / 255)
        faults.append(verdict.probability_B)
        follows.append((verdict.moves_BM.argmax(1) == _MOVE_NAMES.index(prompt.move)).float())
    return torch.stack(faults), torch.stack(follows)


def _behaviour(held_out: HeldOut) -> list[tuple[Cell, ...]]:
    fault_PS, follow_PS = _fault_and_follow(held_out)
    clean_PS, faulty_PS = (fault_PS < CLEAN).float(), (fault_PS > FAULTY).float()
    figures = {
        f"prompt following (chance {1 / len(MOVES):.2f})": follow_PS.mean(1),
        "fault probability": fault_PS.mean(1),
        f"share clean (below {CLEAN})": clean_PS.mean(1),
        f"share faulty (above {FAULTY})": faulty_PS.mean(1),
        f"prompts with both among {held_out.seeds} seeds": clean_PS.amax(1) * faulty_PS.amax(1),
    }
    rows: list[tuple[Cell, ...]] = []
    for name, values_P in figures.items():
        interval = bootstrap(values_P.tolist())
        rows.append((name, interval.mean, interval.low, interval.high))
    return rows
