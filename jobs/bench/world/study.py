"""The rewards that the study compares, by name with their options, and rank statistics of small samples.

Legend: T frames, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rewards.errors import RewardError
from rewards.geometry.reconstruction import GeometryBackend, Reconstruction, reconstruct_many
from rewards.scoring import ReprojectionReward, RewardResult, with_picture
from rewards.table import REWARDS, Reward, load_reward


def win_rate(better: Sequence[float], worse: Sequence[float]) -> float:
    """Share of positions at which `better` is higher, ties counting half."""
    difference = np.asarray(better, dtype=np.float64) - np.asarray(worse, dtype=np.float64)
    return float((0.5 * (1 + np.sign(difference))).mean())


def ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Ranks from 1, tied values sharing the mean of theirs."""
    array = np.asarray(values, dtype=np.float64)
    below = (array[:, None] > array[None]).sum(axis=1)
    tied = (array[:, None] == array[None]).sum(axis=1)
    shared: NDArray[np.float64] = below + (tied + 1) / 2
    return shared


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation; None where one side has a single value, and no order to speak of."""
    left, right = ranks(first), ranks(second)
    left, right = left - left.mean(), right - right.mean()
    size = float(np.sqrt((left**2).sum() * (right**2).sum()))
    return float((left * right).sum() / size) if size else None


DEFAULT: Final = "combined"
# Measured beside the rewards, to tell how much of their agreement is owed to the amount of motion alone.
CONTROL: Final = "less image motion"
SAMPSON: Final = "Sampson distance"


@dataclass(frozen=True, kw_only=True)
class _Variant:
    """A reward of the table with options that differ from its defaults."""

    reward: str = "reprojection"
    options: Mapping[str, Any] = field(default_factory=dict)


_VARIANTS: Final[dict[str, _Variant]] = {
    "mse, all, black (the paper's)": _Variant(options={"views": "all", "holes": "black"}),
    "mse, all": _Variant(options={"views": "all"}),
    "mse, black": _Variant(options={"holes": "black"}),
    "mse (reprojection)": _Variant(),
    "mse + ssim": _Variant(options={"perceptual": "ssim"}),
    "mse + lpips-vgg": _Variant(options={"perceptual": "lpips-vgg"}),
    "mse + lpips-alex": _Variant(options={"perceptual": "lpips-alex"}),
    "l1": _Variant(options={"photometric": "l1"}),
    "combined, first": _Variant(reward="combined", options={"pairs": "first"}),
    DEFAULT: _Variant(reward="combined"),
}


# Rewards of the frames alone; every frame against the next as in the paper, and half a clip apart.
_PICTURE_VARIANTS: Final[dict[str, _Variant]] = {
    "epipolar, adjacent (the paper's)": _Variant(
        reward="epipolar", options={"pairs": "adjacent", "mutual": False, "truncate": 0.0}
    ),
    "epipolar": _Variant(reward="epipolar"),
}


@dataclass(kw_only=True)
class Study:
    """The variants that this machine can run, on reconstructions that they share."""

    geometry: GeometryBackend
    frames: int = 9

    @cached_property
    def rewards(self) -> dict[str, ReprojectionReward]:
        """Without LPIPS where its backbone is missing: it is on nobody's machine by itself."""
        built = {}
        for name, variant in _VARIANTS.items():
            spec = REWARDS[variant.reward]
            options = spec.options(frames=self.frames, **variant.options)
            try:
                reward = spec.constructor(geometry=self.geometry, options=options, version=spec.version)
            except RewardError:
                if "lpips" not in str(variant.options.get("perceptual")):
                    raise
                continue
            assert isinstance(reward, ReprojectionReward)
            built[name] = reward
        return built

    @cached_property
    def picture_rewards(self) -> dict[str, Reward]:
        """Those that look at the frames alone."""
        return {
            name: load_reward(
                variant.reward,
                geometry=None,
                options=REWARDS[variant.reward].options(frames=self.frames, **variant.options),
            )
            for name, variant in _PICTURE_VARIANTS.items()
        }

    @property
    def names(self) -> list[str]:
        """What `errors` has, in the order of the tables."""
        return [*self.rewards, SAMPSON, *self.picture_rewards, CONTROL]

    def picture_errors(self, frames_THW3: Tensor) -> dict[str, float]:
        """The error of every reward of the frames alone, NaN where there is none."""
        values = {name: reward.score(frames_THW3).value for name, reward in self.picture_rewards.items()}
        return {name: math.nan if value is None else -value for name, value in values.items()}

    @torch.no_grad()
    def errors(
        self, reconstruction: Reconstruction, picture: Mapping[str, float]
    ) -> tuple[dict[str, float], RewardResult]:
        """The error of every variant (minus its value, NaN without one), and the default's whole result.

        `picture` is what `picture_errors` found for the frames, whoever reconstructed them.
        """
        indices = range(reconstruction.num_frames)
        results = {name: reward.judge(reconstruction, indices) for name, reward in self.rewards.items()}
        default = with_picture(results[DEFAULT], reconstruction.frames_THW3, indices)
        errors = {name: math.nan if one.value is None else -one.value for name, one in results.items()}
        errors[SAMPSON] = math.nan if default.sampson is None else default.sampson
        errors |= picture
        errors[CONTROL] = math.nan if default.image_motion is None else default.image_motion
        return errors, default


def passes(result: RewardResult, guards: Mapping[str, float]) -> bool:
    """Whether a candidate has a value and the measures that pairing asks for (`min_MEASURE`: bound)."""
    measures = {name: getattr(result, name.removeprefix("min_")) for name in guards}
    return result.value is not None and all(
        measures[name] is not None and measures[name] >= bound for name, bound in guards.items() if bound > 0
    )


def reconstruct_some(
    backend: GeometryBackend, clips: Sequence[Tensor], at_once: int = 8
) -> list[Reconstruction]:
    """Reconstructions of clips of equal shape [T, H, W, 3], a few at a time."""
    found: list[Reconstruction] = []
    with torch.no_grad():
        for start in range(0, len(clips), at_once):
            found += reconstruct_many(backend, clips[start : start + at_once])
    return found
