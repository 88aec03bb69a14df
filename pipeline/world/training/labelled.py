"""What a referee learns from.

Legend: B clips, T frames, H, W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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
