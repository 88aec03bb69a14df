"""What measures clips for `gpa evaluate`: the protocol of a judge, and the judges by name.

Those that come with gpa are in judges/. Legend: T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from rewards.extensions import Table
from rewards.geometry.backends import BACKENDS
from storage.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A row of the evaluation: its name, and whether higher (1) or lower (-1) is better, or neither (0).

    `ratio` is whether a share of the base's value means anything: not for decibels, nor for what has no zero.
    """

    name: str
    better: int
    about: str
    ratio: bool = True

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.better not in (-1, 0, 1):
            raise ValueError(f"a measure has a word as its name and better -1, 0 or 1, got {self!r}")


@dataclass(frozen=True, kw_only=True)
class JudgedClip:
    """A clip as judges see it: all frames, float in [0, 1], and the prompt's text and metadata (JSON)."""

    frames_THW3: Tensor
    fps: float
    text: str
    metadata: str = "{}"


class ClipJudge(Protocol):
    """Measures clips. Values are kept by candidate, `name` and `version`: no clip is measured twice.

    version names all that values depend on (weights, options, code), and is known without loading weights;
    license is that of the weights. measures are in the order of the table, their names unlike those of other
    judges. A judge is built where the command runs, travels to the workers by pickle, and loads its weights
    there, in `setup`: its constructor is cheap, without torch, and raises RewardError when weights are
    missing.
    """

    name: str
    version: str
    license: str
    measures: tuple[Measure, ...]

    def setup(self, device: str) -> None:
        """Load the weights onto a torch device, once, before the first `measure`."""
        ...

    def measure(self, clip: JudgedClip) -> dict[str, float]:
        """Values by the name of the measure; what cannot be measured of this clip is NaN or left out."""
        ...


@dataclass(frozen=True, kw_only=True)
class JudgeSpec:
    """Where a judge is that needs no geometry model: a module with `make_judge(model) -> ClipJudge`.

    model is what the user wrote behind the name, a folder or a Hub id; None is the judge's own.
    """

    module: str

    def make(self, model: str | None) -> ClipJudge:
        """The judge, without its weights."""
        maker: Callable[..., ClipJudge] = import_module(self.module).make_judge
        return maker(model=model)


# What `gpa evaluate --judge NAME[=MODEL]` can name beside the geometry backends.
_OWN = {"videoreward": JudgeSpec(module="pipeline.evaluation.judges.videoreward")}
JUDGES = Table("gpa.judges", JudgeSpec, _OWN)


NO_JUDGE = "none"


@dataclass(frozen=True, kw_only=True)
class JudgeChoice:
    """A judge as NAME[=MODEL] names it: a geometry backend, one of `JUDGES`, or none."""

    name: str
    model: str | None = None

    def __post_init__(self) -> None:
        known = (NO_JUDGE, *BACKENDS, *JUDGES)
        if self.name not in known:
            raise UserError(f"judge {self.name!r} does not exist; choose from: {', '.join(known)}")
        if self.name == NO_JUDGE and self.model is not None:
            raise UserError(f"judge {NO_JUDGE!r} has no model, got {self.model!r}: leave it out")

    @classmethod
    def parse(cls, text: str) -> JudgeChoice:
        """What a word of the command line names; the model is all behind the first '='."""
        name, equals, model = text.partition("=")
        return cls(name=name, model=model if equals and model else None)

    @property
    def is_geometry(self) -> bool:
        """Whether it names a geometry backend."""
        return self.name in BACKENDS

    @property
    def decides_geometry(self) -> bool:
        """Whether it says which geometry judges, be it none."""
        return self.is_geometry or self.name == NO_JUDGE


def require_choices(choices: Sequence[JudgeChoice]) -> None:
    """Raise UserError when two geometry models are to give one measure, or a judge is named twice."""
    geometries = [one.name for one in choices if one.is_geometry]
    if len(geometries) > 1:
        raise UserError(
            f"one geometry model judges an evaluation, got {' and '.join(geometries)}: give one of them, and "
            "another `name` for the other"
        )
    names = [one.name for one in choices]
    if len(set(names)) != len(names):
        raise UserError(f"a judge is named twice in {', '.join(names)}: name it once")


def as_floats(frames_THW3: Any) -> Tensor:
    """Frames in [0, 1] of uint8 frames."""
    import torch

    return torch.from_numpy(frames_THW3).float() / 255
