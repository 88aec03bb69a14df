"""The rewards by name. Adding one is a file with a class like `ReprojectionReward` and a line here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from rewards.combined import CombinedOptions, CombinedReward
from rewards.control import RandomReward
from rewards.epipolar import EpipolarOptions, EpipolarReward
from rewards.errors import RewardError
from rewards.geometry.reconstruction import GeometryBackend, GeometryInfo
from rewards.reprojection import ReprojectionOptions
from rewards.scoring import ReprojectionReward, RewardResult, options_version


class Reward(Protocol):
    """Scores clips; version names all that a value depends on: only values of one version compare."""

    name: str
    version: str

    @property
    def geometry(self) -> GeometryBackend | None:
        """The model behind it; None for a reward that looks at the frames alone."""
        ...

    def score(self, frames_THW3: Tensor) -> RewardResult:
        """Score float frames in [0,1]."""
        ...

    def score_many(self, clips: Sequence[Tensor]) -> list[RewardResult]:
        """Score several clips."""
        ...


class RewardConstructor(Protocol):
    """Builds a reward from a loaded backend (None where none is needed) and its options."""

    def __call__(
        self,
        *,
        geometry: Any,
        options: Any,
        version: str,
        perceptual_weights: Path | None = None,
        device: str = "cpu",
    ) -> Reward:
        """Build it."""
        ...


@dataclass(frozen=True, kw_only=True)
class RewardSpec:
    """A reward of the table. version is raised whenever the same options begin to give other values.

    needs_geometry: whether a geometry model must be loaded for it.
    """

    version: str
    options: type
    constructor: RewardConstructor
    needs_geometry: bool = True


REWARDS: dict[str, RewardSpec] = {
    "reprojection": RewardSpec(version="1", options=ReprojectionOptions, constructor=ReprojectionReward),
    "combined": RewardSpec(version="1", options=CombinedOptions, constructor=CombinedReward),
    "epipolar": RewardSpec(
        version="2", options=EpipolarOptions, constructor=EpipolarReward, needs_geometry=False
    ),
    "random": RewardSpec(version="1", options=ReprojectionOptions, constructor=RandomReward),
}


def load_reward(
    name: str,
    *,
    geometry: GeometryBackend | None = None,
    options: object | None = None,
    perceptual_weights: Path | None = None,
    device: str = "cpu",
) -> Reward:
    """Build the reward `name`; options is an instance of its options class, or None for the defaults.

    Raises RewardError when the name is unknown, a perceptual backbone is missing, or there is no geometry
    backend for a reward that needs one.
    """
    spec = REWARDS.get(name)
    if spec is None:
        raise RewardError(f"reward '{name}' does not exist; choose one of: {', '.join(REWARDS)}")
    if spec.needs_geometry and geometry is None:
        raise RewardError(f"reward '{name}' needs a geometry backend; load one with load_backend")
    return spec.constructor(
        geometry=geometry,
        options=spec.options() if options is None else options,
        version=spec.version,
        perceptual_weights=perceptual_weights,
        device=device,
    )


def reward_version(name: str, options: Any, geometry: GeometryInfo | None) -> str:
    """The version that the reward would have, without loading a geometry model.

    geometry describes the model; it is not looked at for a reward that needs none.
    """
    spec = REWARDS[name]
    if not spec.needs_geometry:
        return spec.constructor(geometry=None, options=options, version=spec.version).version
    return options_version(spec.version, asdict(options), geometry)
