"""What a preference pair must satisfy, and what became of everything that is not in one.

The rules are those of VideoGPA (arXiv 2601.23286, section 4) with the bound on the ratio of motions added. A
field of PairRules is a whole rule: option, key of a preset, SQL and remedy follow from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from storage.errors import FieldError
from storage.tables.ids import SPLITS, Split

# The candidates of a model without an adapter.
BASE = "base"
Strategy: TypeAlias = Literal["best-worst", "all", "top-k"]


def _option(help_line: str, **metadata: Any) -> dict[str, Any]:
    """The metadata of a field that is an option."""
    return {"help": help_line, "group": "Which pairs", **metadata}


def _bound(help_line: str, **metadata: Any) -> dict[str, Any]:
    """Of a bound from below; 0 turns it off. `rule` bounds `measure`, `remedy` is what helps."""
    return _option(help_line, metavar="X", from_below=True, **metadata)


def _at_most(measure: str, help_line: str, rule: str) -> dict[str, Any]:
    """Of a bound from above on a share of footage (rewards/footage); 1 turns it off. Unknown is no fault."""
    remedy = f"raise max_{measure} (1 is no bound), or leave such videos out"
    return _option(
        help_line, metavar="X", rule=rule, measure=measure, of="footage", remedy=remedy, later=True
    )


@dataclass(frozen=True, kw_only=True)
class PairRules:
    """Which candidates of a prompt make a pair.

    `min_gap` and `max_error` are in units of the reward (`max_error` bounds minus the winner's value); 0 or
    inf turns a bound off. `reward_version` None is the only one that a run has; it must be known when pairs
    are mined. A candidate needs its `min_` of each `measure` (a column of scores): of its camera's motion (in
    units of scene depth), of its pixels' (a still clip has no reliable pose), of sharpness as a share of its
    first frame's detail, of its frames' coverage by other frames' points. A ratio bounds winner over loser
    from below: at 1 no winner moves less, or is softer, than its loser, so that this is not what the pairs
    teach. `max_motion_ratio` bounds the ratio of motions on both sides. `top_k` pairs each of the k best with
    each of the k worst of a prompt, k at most half of them. `split` None takes all; `adapter` None takes the
    candidates of all adapters and of the base, else it is an adapter's id, or `BASE`.

    Only candidates of one height, width, number of frames and frame rate (in whole frames a second) compare:
    where a prompt has several, each is ranked by itself. `max_cut` to `max_split_screen` bound what is no
    single scene, as `rewards.footage` measures it, from above; `min_difference` bounds how far two videos are
    from being copies of one, as a share of the winner's contrast (both of thumbnails). What was scored before
    these were measured passes them.

    The rules apply in the order of the fields. A new bound from below, on a candidate (of="candidate") or on
    a winner over its loser (of="pair"), is a field with a `rule` and the `measure` that it bounds.
    Raises FieldError.
    """

    reward: str = field(
        default="reprojection", metadata=_option("Which reward ranks.", metavar="NAME", common=True)
    )
    reward_version: str | None = field(
        default=None, metadata=_option("Which of its versions, when there are several.", metavar="VERSION")
    )
    min_gap: float = field(default=0.05, metadata=_bound("Least difference of the two values.", common=True))
    max_error: float = field(
        default=0.8,
        metadata=_option(
            "Largest error (minus the value) of a winner; inf is no bound.", metavar="X", common=True
        ),
    )
    min_motion: float = field(
        default=0.0,
        metadata=_bound(
            "Less camera motion is static, and left out.",
            rule="static",
            measure="motion",
            of="candidate",
            remedy="lower min_motion, or sample prompts with more camera motion",
        ),
    )
    min_image_motion: float = field(
        default=0.0,
        metadata=_bound(
            "Less motion of the pixels is a still clip, and left out; needs no geometry.",
            rule="still",
            measure="image_motion",
            of="candidate",
            remedy="lower min_image_motion, or sample prompts with more camera motion",
        ),
    )
    min_sharpness: float = field(
        default=0.0,
        metadata=_bound(
            "Less detail, as a share of the first frame's, is a soft clip, and left out.",
            rule="soft",
            measure="sharpness",
            of="candidate",
            remedy="lower min_sharpness, or sample with more steps",
        ),
    )
    min_coverage: float = field(
        default=0.0,
        metadata=_bound(
            "Least share of a clip's pixels that points of other frames reach.",
            rule="uncovered",
            measure="coverage",
            of="candidate",
            remedy="lower min_coverage (to 0 for a reward without geometry), or score with more frames",
        ),
    )
    max_cut: float = field(
        default=0.3,
        metadata=_at_most(
            "cut", "A larger jump between two frames is a cut, and left out; 1 is no bound.", "cut"
        ),
    )
    max_fade: float = field(
        default=0.25,
        metadata=_at_most("fade", "More of the picture in a fade or a dissolve, and it is left out.", "fade"),
    )
    max_bars: float = field(
        default=0.02,
        metadata=_at_most("bars", "More of the picture under bars at its sides, and it is left out.", "bars"),
    )
    max_overlay: float = field(
        default=1.0,
        metadata=_at_most(
            "overlay",
            "More detail that stands while the rest moves, as subtitles do (.01); 1 is no bound.",
            "overlay",
        ),
    )
    max_split_screen: float = field(
        default=1.0,
        metadata=_at_most(
            "split_screen",
            "A longer straight line at which two pictures meet (.5); 1 is no bound.",
            "split-screen",
        ),
    )
    max_motion_ratio: float = field(
        default=math.inf, metadata=_option("Largest ratio of the two motions; inf is no bound.", metavar="X")
    )
    min_motion_ratio: float = field(
        default=0.0,
        metadata=_bound(
            "Least motion of a winner over its loser's; 1 keeps DPO from slowing the camera, 0 is no bound.",
            rule="motion-ratio",
            measure="motion",
            of="pair",
            remedy="raise max_motion_ratio or lower min_motion_ratio (inf and 0 without geometry)",
        ),
    )
    min_image_motion_ratio: float = field(
        default=0.0,
        metadata=_bound(
            "The same for the motion of the pixels.",
            rule="image-motion-ratio",
            measure="image_motion",
            of="pair",
        ),
    )
    min_sharpness_ratio: float = field(
        default=0.0,
        metadata=_bound(
            "Least sharpness of a winner over its loser's; near 1 keeps DPO from blurring, 0 is no bound.",
            rule="sharpness-ratio",
            measure="sharpness",
            of="pair",
        ),
    )
    min_detail_ratio: float = field(
        default=0.0,
        metadata=_bound(
            "Least detail of a winner over its loser's, of whole clips, so that no copy wins that was "
            "compressed or blurred throughout; 0 is no bound.",
            rule="detail-ratio",
            measure="detail",
            of="pair",
            later=True,
        ),
    )
    min_difference: float = field(
        default=0.06,
        metadata=_bound(
            "Least difference of two videos, as a share of their contrast, or they are copies of one.",
            later=True,
        ),
    )
    strategy: Strategy = field(
        default="best-worst", metadata=_option("Which candidates of a prompt meet.", common=True)
    )
    top_k: int = field(
        default=2, metadata=_option("For top-k: each of the K best against each of the K worst.", metavar="K")
    )
    split: Split | None = field(
        default=None, metadata=_option("Prompts of this split only.", none="all", common=True)
    )

    adapter: str | None = field(
        default=None,
        metadata=_option(
            "Only candidates of this adapter: its folder or id, or base for those of the model without one.",
            none="all",
            metavar="DIR",
            later=True,
        ),
    )

    def __post_init__(self) -> None:
        if not self.reward:
            raise FieldError("reward", "a name", self.reward, "see the scores of the run")
        if self.reward_version == "":
            raise FieldError("reward_version", "a name", self.reward_version, "see the scores of the run")
        for one in fields(self):
            if one.metadata.get("from_below") and not 0 <= getattr(self, one.name) < math.inf:
                raise FieldError(one.name, "finite and >= 0", getattr(self, one.name), "0 turns it off")
            if one.metadata.get("of") == "footage" and not getattr(self, one.name) >= 0:
                raise FieldError(one.name, ">= 0", getattr(self, one.name), "1 turns it off")
        if math.isnan(self.max_error):
            raise FieldError("max_error", "a number", self.max_error, "inf turns it off")
        if not self.max_motion_ratio >= 1:
            raise FieldError("max_motion_ratio", ">= 1", self.max_motion_ratio, "inf turns it off")
        if self.min_motion_ratio > self.max_motion_ratio:
            raise FieldError("min_motion_ratio", "<= max_motion_ratio", self.min_motion_ratio, "lower it")
        if self.strategy not in get_args(Strategy):
            choices = ", ".join(get_args(Strategy))
            raise FieldError("strategy", f"one of {choices}", self.strategy, "choose one")
        if self.top_k < 1:
            raise FieldError("top_k", ">= 1", self.top_k, "2 is usual")
        if self.split is not None and self.split not in SPLITS:
            raise FieldError("split", f"one of {', '.join(SPLITS)} or None", self.split, "None takes all")


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """What `gpa pair` is asked for: the rules, and where the pairs go (None: the run's own).

    `decisions` is a file of what a person decided about pairs (storage/mining/decisions.py).
    """

    rules: PairRules = field(default_factory=PairRules)
    out: Path | None = field(
        default=None,
        metadata=_option("Where the pairs go.", default="RUN/pairs", metavar="DIR", group="Output"),
    )
    decisions: Path | None = field(
        default=None,
        metadata=_option(
            "What a person decided in the page of gpa report: pairs to keep, drop or swap.", metavar="FILE"
        ),
    )
    index_only: bool = field(
        default=False, metadata=_option("Write the rows without training tensors.", group="Output")
    )


@dataclass(frozen=True, kw_only=True)
class _Bound:
    """A rule that bounds a measure: the name of the rule, a column of scores, and the field."""

    rule: str
    measure: str
    field: str


def _bounds(of: str) -> tuple[_Bound, ...]:
    return tuple(
        _Bound(rule=one.metadata["rule"], measure=one.metadata["measure"], field=one.name)
        for one in fields(PairRules)
        if one.metadata.get("of") == of
    )


OF_CANDIDATES = _bounds("candidate")
OF_FOOTAGE = _bounds("footage")
OF_PAIRS = _bounds("pair")
# In the order in which they are applied. A candidate leaves at the first of the candidate rules it breaks, or
# at the last rule that any of its pairs reached; a prompt leaves with its last candidate.
CANDIDATE_RULES = (
    "sampling-failed",
    "not-scored",
    "unscorable",
    *(one.rule for one in OF_CANDIDATES),
    *(one.rule for one in OF_FOOTAGE),
    "other-format",
    "fewer-than-two",
    "not-chosen",
)
# The last one is no rule of the reward: a person dropped the pair (storage/mining/decisions.py).
DROPPED = "dropped-by-hand"
COPIES = "copies"
PAIR_RULES = ("max-error", "min-gap", *(one.rule for one in OF_PAIRS), COPIES, DROPPED)
# What helps where a rule leaves no pair.
REMEDIES = {
    "sampling-failed": "see the reason column of its candidates",
    "not-scored": "run `gpa score` with the same reward first",
    "unscorable": "see the reason column of its scores",
    "other-format": "sample or import the candidates of a prompt at one size, length and frame rate",
    "fewer-than-two": "sample more candidates per prompt (gpa sample --candidates)",
    "not-chosen": "take all pairs (`strategy` all)",
    "max-error": "raise max_error",
    COPIES: "lower min_difference, or sample with other seeds",
    DROPPED: "drop fewer pairs in the file of `decisions`",
} | {
    one.metadata["rule"]: one.metadata.get("remedy", f"lower {one.name}")
    for one in fields(PairRules)
    if "rule" in one.metadata
}


class FunnelStep(NamedTuple):
    """Candidates and prompts that a rule cost, and the candidates left after it."""

    rule: str
    candidates_lost: int
    prompts_lost: int
    left: int
