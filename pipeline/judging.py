"""What `gpa evaluate` measures of a clip beside the reward: its pictures, a referee's verdict, the true clip.

Legend: T frames, H W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pipeline.models import WORLD
from pipeline.world.cameras import MOVES
from pipeline.world.clips import WorldPrompt, render_prompt
from pipeline.world.referee import Referee
from rewards.dense_flow import dense_matches
from rewards.quality import image_motion, psnr, roughness, sharpness


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A row of the evaluation: its name, and whether higher (1) or lower (-1) is better, or neither (0)."""

    name: str
    better: int
    about: str

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
    there, in `setup`: its constructor is cheap, and raises RewardError when weights are missing.
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
JUDGES: dict[str, JudgeSpec] = {}


MEASURES: tuple[Measure, ...] = (
    Measure(name="fault", better=-1, about="probability of a geometric fault, by the referee"),
    Measure(name="error", better=-1, about="minus the reward"),
    Measure(name="reprojection", better=-1, about="squared reprojection error where a point lands"),
    Measure(name="motion", better=0, about="camera motion in units of scene depth, by the geometry model"),
    Measure(name="displacement", better=0, about="median way of a match from the first frame, in pixels"),
    Measure(name="image_motion", better=0, about="change between frames over the gradient of the first"),
    Measure(name="sharpness", better=0, about="gradient of later frames as a share of the first frame's"),
    Measure(name="roughness", better=-1, about="raggedness of the motion between frames, in pixels"),
    Measure(name="psnr", better=1, about="PSNR of the later frames to the true clip in dB"),
    Measure(name="first_frame", better=1, about="PSNR of the first frame to the one it was given in dB"),
    Measure(name="follows", better=1, about="share of clips with the prompted camera move, by the referee"),
)

# Each embedded base model has faults of its own, and a referee that knows them.
_REFEREES = {"world-boxes": Path(__file__).parent / "world" / "checkpoints" / "referee-boxes"}


def world_prompt(text: str, metadata: str) -> WorldPrompt | None:
    """The prompt of the embedded world that a row of the prompts table stands for; None for any other."""
    world = json.loads(metadata or "{}").get("world")
    if not isinstance(world, dict):
        return None
    return WorldPrompt(scene_id=world["scene_id"], move=world["move"], text=text, seed=world["seed"])


def displacement(frames_THW3: Tensor) -> float:
    """How far the picture has gone from the first frame: median over matches, mean over the later frames.

    In pixels; NaN where nothing can be matched. Unlike the path of an estimated camera it counts no jitter.
    """
    ways = []
    for later_HW3 in frames_THW3[1:]:
        here_N2, there_N2 = dense_matches(frames_THW3[0], later_HW3)
        ways.append((there_N2 - here_N2).norm(dim=1).nanmedian())
    return float(torch.stack(ways).nanmean()) if ways else float("nan")


def true_clip(prompt: WorldPrompt) -> Tensor:
    """The clip [T, H, W, 3] that a perfect model would make of the prompt."""
    return render_prompt(prompt).frames_THW3


@dataclass(kw_only=True)
class Judge:
    """Measures clips. The referee is a network that no reward sees; it knows the faults of `model`."""

    model: str = WORLD
    _referee: Referee | None = field(default=None, init=False)
    _truth: tuple[WorldPrompt, Tensor] | None = field(default=None, init=False)

    def measure(self, frames_THW3: Tensor, prompt: WorldPrompt | None) -> dict[str, float]:
        """The measures of a clip of float frames in [0, 1]; without a world prompt, only the plain ones."""
        values = {
            "displacement": displacement(frames_THW3),
            "image_motion": image_motion(frames_THW3),
            "sharpness": sharpness(frames_THW3),
            "roughness": roughness(frames_THW3),
        }
        return values if prompt is None else values | self._against_world(frames_THW3, prompt)

    def _against_world(self, frames_THW3: Tensor, prompt: WorldPrompt) -> dict[str, float]:
        if self._referee is None:
            self._referee = Referee.from_pretrained(_REFEREES.get(self.model))
        verdict = self._referee.judge(frames_THW3[None])
        seen = MOVES[int(verdict.moves_BM[0].argmax())].name
        truth = self._true_clip(prompt)
        return {
            "fault": float(verdict.probability_B[0]),
            "follows": float(seen == prompt.move),
            "psnr": float(psnr(frames_THW3[1:], truth[1:]).mean()),
            "first_frame": float(psnr(frames_THW3[:1], truth[:1])),
        }

    def _true_clip(self, prompt: WorldPrompt) -> Tensor:
        """The true clip; the last one is kept, since the seeds of a prompt come one after the other."""
        if self._truth is None or self._truth[0] != prompt:
            self._truth = (prompt, true_clip(prompt))
        return self._truth[1]


def as_floats(frames_THW3: Any) -> Tensor:
    """Frames in [0, 1] of uint8 frames."""
    return torch.from_numpy(frames_THW3).float() / 255
