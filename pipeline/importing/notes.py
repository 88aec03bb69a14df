"""What import did to videos beyond taking them as they are, for the person who gave them."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pipeline.importing.settings import UNLIKE_DB
from storage.mining.rules import OF_FOOTAGE, PairRules
from storage.run import Run

_MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Notes:
    """Counts by what was done; names of videos that do not begin with their first frame, with dB.

    `spoilt` counts those over a bound of footage that `gpa pair` has by default, by rule.
    """

    counts: dict[str, int]
    unlike: tuple[tuple[str, float], ...]
    spoilt: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for machines."""
        return {**self.counts, "first_frame_unlike": dict(self.unlike), "footage": self.spoilt}

    def lines(self) -> list[str]:
        """A line for everything that happened."""
        told = [f"{self.counts[key]:,} {text}" for key, text in _TOLD.items() if self.counts[key]]
        if self.unlike:
            named = ", ".join(f"{name} {psnr:.1f} dB" for name, psnr in self.unlike[:_MOST_NAMED])
            rest = ", ..." if len(self.unlike) > _MOST_NAMED else ""
            told.append(
                f"{len(self.unlike):,} begin with another picture than their first frame ({named}{rest}): "
                "--min-first-frame-psnr refuses them"
            )
        told += [
            f"{self.spoilt[one.rule]:,} break the rule {one.rule}: gpa pair will leave them out "
            f"(--{one.field.replace('_', '-')})"
            for one in OF_FOOTAGE
            if self.spoilt[one.rule]
        ]
        return told


_TOLD = {
    "turned": "turned or mirrored, as players show them",
    "square_pixels": "given square pixels",
    "colours": "converted from wide colours or high dynamic range",
    "by_time": "sampled by time, at another frame rate than their own",
    "repeated": "of these repeat a frame where they stand still",
    "uneven": "have uneven frame times and are kept frame by frame",
    "resized": "cut or scaled to the model's size",
    "written_again": "written again for these and other reasons; the others are the files as they were",
}


def notes_of(run: Run, ids: Collection[str]) -> Notes:
    """What was done to these candidates of a run."""
    counts = dict.fromkeys(_TOLD, 0)
    unlike: list[tuple[str, float]] = []
    rules, spoilt = PairRules(), {one.rule: 0 for one in OF_FOOTAGE}
    for row in run.rows("candidates", ["candidate_id", "sampler"]).to_pylist():
        if row["candidate_id"] not in ids:
            continue
        done = json.loads(row["sampler"])["imported"]
        video, by_time = done.get("video", {}), done.get("by_time")
        found = {
            "turned": "turned" in video or "mirrored" in video,
            "square_pixels": "pixel_shape" in video,
            "colours": "colours" in video,
            "by_time": by_time is not None,
            "repeated": bool(by_time and by_time["repeated"]),
            "uneven": "uneven" in video and by_time is None,
            "resized": done.get("fit", "exact") != "exact",
            "written_again": done.get("written_again", False),
        }
        for name, value in found.items():
            counts[name] += value
        for one in OF_FOOTAGE:
            spoilt[one.rule] += (done.get(one.measure) or 0.0) > getattr(rules, one.field)
        psnr = done.get("first_frame_psnr")
        if psnr is not None and psnr < UNLIKE_DB:
            unlike.append((done["source"], psnr))
    return Notes(counts=counts, unlike=tuple(sorted(unlike, key=lambda one: one[1])), spoilt=spoilt)
