"""What the rewards can be asked for. Nothing heavy is imported: the command line shows these as its options.

A field whose metadata has `help` is an option of `gpa score`. All fields are part of a reward's version; one
that was added when there were scores already says so (later: True), and is no part of it at its default.
A reward may as well keep its options in its own file.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

PerceptualName: TypeAlias = Literal["none", "ssim", "lpips-vgg", "lpips-alex"]
MatcherName: TypeAlias = Literal["sift", "lightglue-disk", "lightglue-aliked"]


def _check_choices(options: Any) -> None:
    """Raise ValueError for a field of a Literal type that is none of its choices."""
    for name, kind in typing.get_type_hints(type(options)).items():
        choices = typing.get_args(kind)
        if typing.get_origin(kind) is Literal and getattr(options, name) not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(options, name)!r}")


def versioned(options: Any) -> dict[str, Any]:
    """The options that a version of a reward names."""
    values = {one.name: getattr(options, one.name) for one in fields(options)}
    later = {one.name: one.default for one in fields(options) if one.metadata.get("later")}
    return {name: value for name, value in values.items() if name not in later or value != later[name]}


@dataclass(frozen=True, kw_only=True)
class ReprojectionOptions:
    """How the error is computed.

    views: "all" splats every point into every frame (the paper); "others" leaves out a frame's own points,
    which land on themselves without error. holes: "black" counts pixels that no point reaches as black (the
    paper); "masked" leaves them out and adds hole_penalty times their share. perceptual: which distance is
    added, times perceptual_weight. photometric: squared ("mse", the paper) or absolute ("l1") differences of
    colours; the latter is less ruled by a few edges. frames: how many frames of the clip are used.
    rasteriser: the one built in ("torch"), PyTorch3D's, which draws the same, or "auto", the faster one for
    the device. Raises ValueError for what does not exist, RewardError when PyTorch3D is asked for and cannot
    be imported.
    """

    views: Literal["all", "others"] = field(
        default="others", metadata={"help": "Points drawn into a frame: all, or those of other frames."}
    )
    holes: Literal["black", "masked"] = field(
        default="masked", metadata={"help": "Pixels that no point reaches."}
    )
    perceptual: PerceptualName = field(
        default="none", metadata={"help": "Perceptual distance added to the MSE."}
    )
    perceptual_weight: float = field(
        default=1.0, metadata={"help": "Weight of the perceptual distance.", "metavar": "X"}
    )
    hole_penalty: float = field(
        default=0.1, metadata={"help": "Added per share of holes when they are masked.", "metavar": "X"}
    )
    frames: int = field(
        default=10,
        metadata={
            "help": "Frames of a video that are used, evenly spread.",
            "metavar": "N",
            "common": True,
        },
    )
    rasteriser: Literal["auto", "torch", "pytorch3d"] = field(
        default="torch",
        metadata={
            "help": "What draws the points: the built-in one (torch), PyTorch3D, which draws the same, or "
            "the faster one for the device (auto)."
        },
    )
    photometric: Literal["mse", "l1"] = field(
        default="mse", metadata={"help": "Squared or absolute differences of colours."}
    )

    def __post_init__(self) -> None:
        _check_choices(self)
        for name in ("perceptual_weight", "hole_penalty"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and >= 0, got {getattr(self, name)}")
        if self.frames < 2:
            raise ValueError(
                f"frames must be >= 2 because an error between views needs two, got {self.frames}"
            )
        if self.rasteriser == "pytorch3d":
            from rewards.rasterise.rasterisers import find_rasteriser

            find_rasteriser(self.rasteriser)


@dataclass(frozen=True, kw_only=True)
class CombinedOptions(ReprojectionOptions):
    """Those of the reprojection, with absolute colour errors, and how matches are measured.

    pairs: "half" matches every frame with the one half a clip later, "first" with the first one, which asks
    the end of a clip to still show what the beginning did. min_image_motion: a clip whose pixels
    move less (see `rewards.measures.quality.image_motion`) has no value: it stands still, and nothing can be
    measured.
    """

    photometric: Literal["mse", "l1"] = field(
        default="l1", metadata={"help": "Squared or absolute differences of colours."}
    )
    pairs: Literal["first", "half"] = field(
        default="half",
        metadata={"help": "Match frames half a clip apart, all with the first, or (epipolar) adjacent ones."},
    )
    min_image_motion: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.min_image_motion < float("inf"):
            raise ValueError(f"min_image_motion must be finite and > 0, got {self.min_image_motion}")


@dataclass(frozen=True, kw_only=True)
class EpipolarOptions:
    """How frames are matched and what counts. The paper's: pairs "adjacent", mutual False, truncate 0.

    pairs: "adjacent" frames, every frame with the one "half" a clip later, or all with the "first"; most
    faults grow with time and hide between neighbours. matcher: see `rewards.matching.matching`; ratio and
    mutual are SIFT's, matcher_weights a folder with the files of a learned one (None: torch's cache).
    min_matches: below, a pair is not measured (the paper's 20). min_share: of the pairs must be measured.
    min_displacement: in pixels; a pair whose median match moves less stands still. threshold: in pixels of
    the frame that was searched, for what the matrix must fit. truncate: distances above count as this many
    pixels of a frame with a short side of 256, so that a wrong match cannot outweigh the rest; 0 takes the
    plain mean. frames: how many of the clip are used.
    """

    frames: int = field(
        default=10,
        metadata={
            "help": "Frames of a video that are used, evenly spread.",
            "metavar": "N",
            "common": True,
        },
    )
    pairs: Literal["adjacent", "half", "first"] = field(
        default="half", metadata={"help": "Which frames are matched: half a clip apart, or adjacent ones."}
    )
    matcher: MatcherName = field(default="sift", metadata={"help": "What matches frames."})
    matcher_weights: str | None = field(
        default=None,
        metadata={
            "help": "Folder with the files of a learned matcher.",
            "metavar": "DIR",
            "default": "torch's hub cache",
        },
    )
    ratio: float = 0.75
    mutual: bool = True
    min_matches: int = 20
    min_share: float = 0.5
    min_displacement: float = 0.1
    threshold: float = 1.0
    truncate: float = 2.0

    def __post_init__(self) -> None:
        _check_choices(self)
        for name in ("ratio", "min_share"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        for name in ("min_displacement", "threshold", "truncate"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and >= 0, got {getattr(self, name)}")
        if self.threshold == 0:
            raise ValueError("threshold must be > 0 because no match fits exactly, got 0")
        if self.min_matches < 8:
            raise ValueError(f"min_matches must be >= 8 because a matrix takes eight, got {self.min_matches}")
        if self.frames < 2:
            raise ValueError(f"frames must be >= 2 because a match needs two, got {self.frames}")
