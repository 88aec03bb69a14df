"""What `gpa score` is asked for; from its options to a reward object, and to the version of its values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.worker_settings import WorkerSettings
from pipeline.requirements import require_all
from rewards.errors import RewardError
from rewards.geometry.backends import BACKENDS, describe_backend, load_backend
from rewards.table import REWARDS, Reward, find_reward, load_reward, reward_version
from storage.errors import FieldError

if TYPE_CHECKING:
    from rewards.geometry.reconstruction import GeometryInfo
    from rewards.rasterise.rasterisers import Choice


def option_names(reward: str) -> set[str]:
    """The options that a reward has. Raises RewardError when there is no such reward."""
    return {one.name for one in dataclasses.fields(find_reward(reward).options)}


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """A reward, the geometry model behind it and the reward's own options (those of its options class).

    `geometry_model` is a folder or a Hub id; None is the backend's own. `perceptual_weights` is the file of
    the backbone of LPIPS; None looks in torch's cache.
    Raises RewardError for an unknown reward and for an option its reward does not have or does not accept.
    """

    reward: str = field(
        default="reprojection",
        metadata={
            "help": "Which reward: combined (reprojection and matches), reprojection (the paper's), epipolar "
            "(needs no geometry), or random as a control.",
            "metavar": "NAME",
            "group": "Reward",
            "common": True,
        },
    )
    geometry: str = field(
        default="world",
        metadata={
            "help": f"Geometry backend: {', '.join(BACKENDS)}.",
            "metavar": "NAME",
            "group": "Model",
            "common": True,
        },
    )
    geometry_model: str | None = field(
        default=None,
        metadata={
            "help": "Weights of the backend: a folder or a Hub id.",
            "default": "its own",
            "metavar": "NAME",
            "group": "Model",
            "common": True,
        },
    )
    geometry_revision: str | None = field(
        default=None, metadata={"help": "Revision of a Hub id.", "metavar": "REV", "group": "Model"}
    )
    perceptual_weights: Path | None = field(
        default=None,
        metadata={
            "help": "Backbone of LPIPS (torchvision's file).",
            "default": "from torch's hub cache",
            "metavar": "FILE",
            "group": "Model",
        },
    )
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reward_options()

    def reward_options(self) -> Any:
        """The options as an instance of the reward's options class."""
        names = option_names(self.reward)
        spec = REWARDS[self.reward]
        unknown = sorted(set(self.options) - names)
        if unknown:
            raise RewardError(
                f"reward {self.reward!r} has no option {unknown[0]!r}; it has {', '.join(sorted(names))}"
            )
        try:
            return spec.options(**self.options)
        except ValueError as error:
            raise RewardError(f"reward {self.reward!r}: {error}") from error

    @property
    def knows_the_world_alone(self) -> bool:
        """Whether the values rest on the geometry network of the embedded world, as it comes with gpa."""
        own = self.geometry == "world" and self.geometry_model is None
        return own and REWARDS[self.reward].needs_geometry

    def rasteriser(self, device: str) -> Choice | None:
        """What draws the points on a device, and why; None for a reward that draws none."""
        from rewards.rasterise.rasterisers import AUTO, Choice, choose_rasteriser

        name = getattr(self.reward_options(), "rasteriser", None)
        if name is None:
            return None
        return choose_rasteriser(device) if name == AUTO else Choice(name=name, reason="as asked")

    def load(self, device: str) -> Reward:
        """Load the geometry model, where one is needed, and build the reward.

        Raises RewardError when weights are missing.
        """
        backend = None
        if REWARDS[self.reward].needs_geometry:
            backend = load_backend(
                self.geometry, model=self.geometry_model, revision=self.geometry_revision, device=device
            )
        return load_reward(
            self.reward,
            geometry=backend,
            options=self.reward_options(),
            perceptual_weights=self.perceptual_weights,
            device=device,
        )

    def describe(self) -> tuple[str, GeometryInfo | None]:
        """The version that scores will carry, and the geometry model behind it, without loading a network.

        Raises RewardError when weights are missing, UserError naming all when several are.
        """
        from rewards.measures.backbones import require_backbone

        options = self.reward_options()
        found: list[GeometryInfo] = []

        def describe_geometry() -> None:
            if REWARDS[self.reward].needs_geometry:
                model, revision = self.geometry_model, self.geometry_revision
                found.append(describe_backend(self.geometry, model=model, revision=revision))

        perceptual = getattr(options, "perceptual", "none")
        require_all(lambda: require_backbone(perceptual, self.perceptual_weights), describe_geometry)
        geometry = found[0] if found else None
        return reward_version(self.reward, options, geometry), geometry


@dataclass(frozen=True, kw_only=True)
class ScoreSettings(WorkerSettings):
    """What `gpa score` is asked for; `batch` candidates make one task.

    `clips_per_forward` of them share a pass of the geometry model. Raises FieldError.
    """

    reward: RewardSettings
    batch: int = field(
        default=8,
        metadata={"help": "Candidates of a prompt that make one task.", "metavar": "N", "group": "Compute"},
    )
    clips_per_forward: int = field(
        default=1,
        metadata={
            "help": "Candidates that share a pass of the geometry model: faster on a GPU, other last digits.",
            "metavar": "N",
            "group": "Compute",
        },
    )
    limit: int | None = field(
        default=None,
        metadata={
            "help": "Only the candidates of N prompts.",
            "metavar": "N",
            "group": "Which candidates",
            "common": True,
        },
    )
    any_footage: bool = field(
        default=False,
        metadata={
            "help": "Have the world's geometry score videos that are not of the world; it knows no others, "
            "and the scores say so.",
            "group": "Which candidates",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch", "clips_per_forward", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise FieldError(name, "at least 1", value)
