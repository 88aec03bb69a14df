"""Rewards by name. A new one is a class like `ReprojectionReward` in a file, and a line here or a package.

Rewards are imported when they are asked for; their options also for the help of the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from rewards.errors import RewardError
from rewards.extensions import Table
from rewards.options import versioned
from rewards.versions import SIFT, options_version

if TYPE_CHECKING:
    from torch import Tensor

    from rewards.geometry.reconstruction import GeometryBackend, GeometryInfo
    from rewards.scoring import RewardResult


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
    """A reward of the table: its class and that of its options as "module:name", imported when asked for.

    version is raised whenever the same options begin to give other values. needs_geometry: whether a geometry
    model must be loaded for it.
    """

    version: str
    reward: str
    options_class: str
    needs_geometry: bool = True

    @property
    def options(self) -> type:
        """The class of its options."""
        return cast(type, _named(self.options_class))

    @property
    def constructor(self) -> RewardConstructor:
        """What builds it."""
        return cast(RewardConstructor, _named(self.reward))


def _named(place: str) -> Any:
    module, _, name = place.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RewardError(f"{place} cannot be loaded ({error}): correct or install what it names") from error


def _spec(version: str, reward: str, options: str, *, needs_geometry: bool = True) -> RewardSpec:
    return RewardSpec(version=version, reward=reward, options_class=options, needs_geometry=needs_geometry)


_OWN: dict[str, RewardSpec] = {
    "reprojection": _spec("1", "rewards.scoring:ReprojectionReward", "rewards.options:ReprojectionOptions"),
    "combined": _spec("1", "rewards.combined:CombinedReward", "rewards.options:CombinedOptions"),
    "epipolar": _spec(
        "2", "rewards.epipolar:EpipolarReward", "rewards.options:EpipolarOptions", needs_geometry=False
    ),
    "random": _spec("1", "rewards.control:RandomReward", "rewards.options:ReprojectionOptions"),
}
REWARDS = Table("gpa.rewards", RewardSpec, _OWN)


def find_reward(name: str) -> RewardSpec:
    """The spec of a reward. Raises RewardError when there is no such reward."""
    spec = REWARDS.get(name)
    if spec is None:
        raise RewardError(f"reward {name!r} does not exist; choose one of: {', '.join(REWARDS)}")
    return spec


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
    spec = find_reward(name)
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
    if getattr(options, "matcher", None) == "sift" and not spec.needs_geometry:
        # What its constructor says, which would import torch and the matcher.
        return options_version(spec.version, asdict(options) | {"matcher_weights": SIFT}, None)
    if not spec.needs_geometry:
        return spec.constructor(geometry=None, options=options, version=spec.version).version
    return options_version(spec.version, versioned(options), geometry)
