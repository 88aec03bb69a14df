"""The referee: tells geometrically faulty clips from clean ones and reads the camera move; no reward sees it.

It shares nothing with the geometry backend, not even the matching: plain block matching at half resolution
between frames four apart, then a small CNN. It knows one family of faults, smooth warps that grow with time.
Legend: B clips, T frames, H, W pixels (half resolution: h, w), K candidate displacements.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.world.cameras import FRAMES, MOVES
from rewards.errors import RewardError
from rewards.hub import load_checkpoint, save_checkpoint
from storage.errors import UserError

# (later frame, earlier frame): a quarter to a half of the clip's motion, within reach and unlikely to alias.
_PAIRS: Final = ((4, 0), (6, 2), (8, 4))
_REACH: Final = 5  # half-resolution pixels
_INPUTS: Final = 3 * len(_PAIRS) + 9


@dataclass(frozen=True, kw_only=True)
class RefereeConfig:
    """Size of the referee."""

    width: int = 32

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"RefereeConfig.width: must be at least 1, got {self.width}; 32 is the default")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Fault logit [B] (higher is faultier) and logits of the moves [B, 10], ordered as `cameras.MOVES`."""

    fault_B: Tensor
    moves_BM: Tensor

    @property
    def probability_B(self) -> Tensor:
        """Probability of a fault."""
        return self.fault_B.sigmoid()


def _vertex(before: Tensor, centre: Tensor, after: Tensor) -> Tensor:
    """Offset in [-0.5, 0.5] of the minimum of the parabola through three costs."""
    return ((before - after) / (2 * (before - 2 * centre + after)).clamp_min(1e-8)).clamp(-0.5, 0.5)


def block_match(later_BCHW: Tensor, earlier_BCHW: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Displacement [B, 2, H, W] to the best match in the earlier image, and its cost [B, 1, H, W].

    Squared colour difference over 5x5 windows, whole-pixel candidates up to `reach`, then a parabola through
    the neighbouring costs along x and y.
    """
    height, width = later_BCHW.shape[-2:]
    padded = F.pad(earlier_BCHW, [reach] * 4, mode="replicate")
    side = 2 * reach + 1
    errors = [
        (padded[:, :, top : top + height, left : left + width] - later_BCHW).square().sum(1)
        for top in range(side)
        for left in range(side)
    ]
    rows = F.avg_pool2d(torch.stack(errors, 1), (5, 1), 1, (2, 0), count_include_pad=False)
    cost = F.avg_pool2d(rows, (1, 5), 1, (0, 2), count_include_pad=False) / 3
    best = cost.argmin(1, keepdim=True)
    row, column = best // side, best % side
    row_in, column_in = row.clamp(1, side - 2), column.clamp(1, side - 2)
    at = {
        (dy, dx): cost.gather(1, (row_in + dy) * side + column_in + dx)
        for dy, dx in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
    }
    y = row_in + _vertex(at[-1, 0], at[0, 0], at[1, 0])
    x = column_in + _vertex(at[0, -1], at[0, 0], at[0, 1])
    return torch.cat([x, y], 1) - reach, cost.gather(1, best)


@torch.no_grad()
def referee_inputs(frames_BTHW3: Tensor) -> Tensor:
    """What the CNN sees [B, 18, h, w] of nine-frame clips in [0, 1]: motions, match costs, three frames."""
    if frames_BTHW3.shape[1] != FRAMES:
        raise ValueError(f"referee: clips must have {FRAMES} frames, got {frames_BTHW3.shape[1]}")
    images = F.avg_pool2d(frames_BTHW3.flatten(0, 1).permute(0, 3, 1, 2), 2)
    images = images.view(*frames_BTHW3.shape[:2], *images.shape[1:])
    parts = []
    for later, earlier in _PAIRS:
        flow, cost = block_match(images[:, later], images[:, earlier], _REACH)
        parts += [flow * (2 / _REACH), 10 * cost.sqrt()]
    parts += [images[:, t] - 0.5 for t in (0, 4, 8)]
    return torch.cat(parts, 1)


class Referee(nn.Module):
    """Fault and move of clips [B, 9, 64, 64, 3]; see `Verdict`."""

    def __init__(self, config: RefereeConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.layers = nn.Sequential(
            nn.Conv2d(_INPUTS, width, 3, 1, 1),
            nn.GELU(),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.GroupNorm(4, 2 * width),
            nn.GELU(),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1),
            nn.GroupNorm(4, 2 * width),
            nn.GELU(),
            nn.Conv2d(2 * width, 3 * width, 4, 2, 1),
            nn.GroupNorm(4, 3 * width),
            nn.GELU(),
            nn.Conv2d(3 * width, 4 * width, 4, 2, 1),
            nn.GELU(),
        )
        self.hidden = nn.Linear(4 * width * 16, 128)
        self.fault = nn.Linear(128, 1)
        self.moves = nn.Linear(128, len(MOVES))

    def forward(self, inputs_BKhw: Tensor) -> Verdict:
        """Judges what `referee_inputs` prepared."""
        features = F.adaptive_avg_pool2d(self.layers(inputs_BKhw), 4).flatten(1)
        hidden = F.gelu(self.hidden(features))
        return Verdict(fault_B=self.fault(hidden)[:, 0], moves_BM=self.moves(hidden))

    @torch.no_grad()
    def judge(self, frames_BTHW3: Tensor, batch_size: int = 16) -> Verdict:
        """Judges clips of float frames in [0, 1]."""
        parts = [self(referee_inputs(chunk)) for chunk in torch.split(frames_BTHW3, batch_size)]
        return Verdict(
            fault_B=torch.cat([part.fault_B for part in parts]),
            moves_BM=torch.cat([part.moves_BM for part in parts]),
        )

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes config.json and model.safetensors into `directory`."""
        save_checkpoint(self, self.config, directory)

    @classmethod
    def from_pretrained(cls, directory: str | Path | None = None) -> Referee:
        """Reads a referee, by default the shipped one, in evaluation mode; UserError names what is wrong."""
        folder = Path(directory) if directory else Path(__file__).parent / "checkpoints" / "referee"
        try:
            return load_checkpoint(folder, "referee", lambda config: cls(RefereeConfig(**config)))
        except RewardError as error:
            raise UserError(str(error)) from error
