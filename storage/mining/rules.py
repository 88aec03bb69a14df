"""What a preference pair must satisfy, and what became of everything that is not in one.

The rules are those of VideoGPA (arXiv 2601.23286, section 4) with the bound on the ratio of motions added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

from storage.tables.ids import SPLITS

Strategy: TypeAlias = Literal["best-worst", "all", "top-k"]

# In the order in which they are applied. A candidate leaves at the first of the candidate rules it breaks, or
# at the last rule that any of its pairs reached; a prompt leaves with its last candidate.
CANDIDATE_RULES = (
    "sampling-failed",
    "not-scored",
    "unscorable",
    "static",
    "still",
    "soft",
    "uncovered",
    "fewer-than-two",
    "not-chosen",
)
# The last one is no rule of the reward: a person dropped the pair (storage/mining/decisions.py).
DROPPED = "dropped-by-hand"
PAIR_RULES = ("max-error", "min-gap", "motion-ratio", "image-motion-ratio", "sharpness-ratio", DROPPED)
_BOUNDS_FROM_BELOW = (
    "min_gap",
    "min_motion",
    "min_image_motion",
    "min_sharpness",
    "min_coverage",
    "min_motion_ratio",
    "min_image_motion_ratio",
    "min_sharpness_ratio",
)


@dataclass(frozen=True, kw_only=True)
class PairRules:
    """Which candidates of a prompt make a pair.

    `min_gap` and `max_error` are in units of the reward (`max_error` bounds minus the winner's value); 0 or
    inf turns a bound off. A candidate needs `min_motion` of its camera (in units of scene depth),
    `min_image_motion` of its pixels (a still clip has no reliable pose), `min_sharpness` as a share of its
    first frame's detail and `min_coverage` of its frames by other frames' points. `max_motion_ratio` bounds
    winner over loser motion on both sides, and `min_motion_ratio`, `min_image_motion_ratio` and
    `min_sharpness_ratio` bound winner over loser from below: at 1 no winner moves less, or is softer, than
    its loser, so that this is not what the pairs teach. 0 turns a bound off. `top_k` pairs each of the k best
    with each of the k worst of a prompt, k at most half of them. `split` None takes all.
    """

    reward: str
    reward_version: str
    min_gap: float = 0.05
    max_error: float = 0.8
    min_motion: float = 0.0
    min_image_motion: float = 0.0
    min_sharpness: float = 0.0
    min_coverage: float = 0.0
    max_motion_ratio: float = math.inf
    min_motion_ratio: float = 0.0
    min_image_motion_ratio: float = 0.0
    min_sharpness_ratio: float = 0.0
    strategy: Strategy = "best-worst"
    top_k: int = 2
    split: str | None = None

    def __post_init__(self) -> None:
        for name in ("reward", "reward_version"):
            if not getattr(self, name):
                raise _invalid(name, "a name", getattr(self, name), "see queries.reward_versions")
        for name in _BOUNDS_FROM_BELOW:
            if not 0 <= getattr(self, name) < math.inf:
                raise _invalid(name, "finite and >= 0", getattr(self, name), "0 turns it off")
        if math.isnan(self.max_error):
            raise _invalid("max_error", "a number", self.max_error, "inf turns it off")
        if not self.max_motion_ratio >= 1:
            raise _invalid("max_motion_ratio", ">= 1", self.max_motion_ratio, "inf turns it off")
        if self.min_motion_ratio > self.max_motion_ratio:
            raise _invalid("min_motion_ratio", "<= max_motion_ratio", self.min_motion_ratio, "lower it")
        if self.strategy not in get_args(Strategy):
            raise _invalid("strategy", f"one of {', '.join(get_args(Strategy))}", self.strategy, "choose one")
        if self.top_k < 1:
            raise _invalid("top_k", ">= 1", self.top_k, "2 is usual")
        if self.split is not None and self.split not in SPLITS:
            raise _invalid("split", f"one of {', '.join(SPLITS)} or None", self.split, "None takes all")


class FunnelStep(NamedTuple):
    """Candidates and prompts that a rule cost, and the candidates left after it."""

    rule: str
    candidates_lost: int
    prompts_lost: int
    left: int


def _invalid(field: str, rule: str, received: object, remedy: str) -> ValueError:
    return ValueError(f"PairRules.{field} must be {rule}, got {received!r}: {remedy}")
