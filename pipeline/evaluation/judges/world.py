"""What only the embedded world can tell: a referee that knows the faults, and the true clip.

Legend: T frames, H W pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.evaluation.judges.judge import JudgedClip, Measure
from pipeline.models import WORLD
from pipeline.world.cameras import MOVES
from pipeline.world.clips import WorldPrompt, render_prompt
from rewards.errors import RewardError
from rewards.hub import content_revision

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.world.referee import Referee

# Each embedded base model has faults of its own, and a referee that knows them.
_CHECKPOINTS = Path(__file__).resolve().parents[2] / "world" / "checkpoints"
_REFEREES = {"world-boxes": _CHECKPOINTS / "referee-boxes"}
_CODE = "1"
# Measures that say how far a clip is from the true one.
AGAINST_TRUTH = frozenset({"truth_psnr", "first_frame"})


class WorldJudge:
    """Judges clips of the world's prompts; of any other clip it measures nothing.

    The referee is a network that no reward sees; it knows the faults of `model`. Raises RewardError when its
    weights are missing.
    """

    name = "referee"
    license = "Apache-2.0"
    measures: tuple[Measure, ...] = (
        Measure(name="fault", better=-1, about="probability of a geometric fault, by the referee"),
        Measure(
            name="truth_psnr", better=1, about="PSNR of the later frames to the true clip in dB", ratio=False
        ),
        Measure(
            name="first_frame",
            better=1,
            about="PSNR of the first frame to the one it was given in dB",
            ratio=False,
        ),
        Measure(
            name="follows", better=1, about="share of clips with the prompted camera move, by the referee"
        ),
    )

    def __init__(self, model: str = WORLD) -> None:
        self._folder = _REFEREES.get(model, _CHECKPOINTS / "referee")
        weights = self._folder / "model.safetensors"
        if not weights.is_file():
            raise RewardError(f"referee weights {weights} are missing; reinstall the package")
        self.version = f"{_CODE}-{content_revision(weights)[:12]}"
        self._referee: Referee | None = None
        self._truth: tuple[WorldPrompt, Tensor] | None = None

    def setup(self, device: str) -> None:
        """Load the referee; it is small and stays on the CPU."""
        from pipeline.world.referee import Referee

        self._referee = Referee.from_pretrained(self._folder)

    def measure(self, clip: JudgedClip) -> dict[str, float]:
        """The verdict on a clip of the world, and how far it is from the truth."""
        from rewards.measures.quality import psnr

        prompt = world_prompt(clip.text, clip.metadata)
        if prompt is None:
            return {}
        assert self._referee is not None, "setup comes first"
        frames_THW3 = clip.frames_THW3
        verdict = self._referee.judge(frames_THW3[None])
        seen = MOVES[int(verdict.moves_BM[0].argmax())].name
        truth = self._true_clip(prompt)
        return {
            "fault": float(verdict.probability_B[0]),
            "truth_psnr": float(psnr(frames_THW3[1:], truth[1:]).mean()),
            "first_frame": float(psnr(frames_THW3[:1], truth[:1])),
            "follows": float(seen == prompt.move),
        }

    def _true_clip(self, prompt: WorldPrompt) -> Tensor:
        """The true clip; the last one is kept, since the clips of a prompt come one after the other."""
        if self._truth is None or self._truth[0] != prompt:
            self._truth = (prompt, true_clip(prompt))
        return self._truth[1]


def world_prompt(text: str, metadata: str) -> WorldPrompt | None:
    """The prompt of the embedded world that a row of the prompts table stands for; None for any other."""
    world = json.loads(metadata or "{}").get("world")
    if not isinstance(world, dict):
        return None
    return WorldPrompt(scene_id=world["scene_id"], move=world["move"], text=text, seed=world["seed"])


def true_clip(prompt: WorldPrompt) -> Tensor:
    """The clip [T, H, W, 3] that a perfect model would make of the prompt."""
    return render_prompt(prompt).frames_THW3
