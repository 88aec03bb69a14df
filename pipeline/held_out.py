"""Who judged an evaluation, and whether the judge is held out: its geometry made none of the rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.judge import Panel
from rewards.geometry.reconstruction import GeometryInfo
from storage.hub.provenance import pair_provenance
from storage.run import Run


@dataclass(frozen=True, kw_only=True)
class JudgeLine:
    """A judge as the table names it."""

    name: str
    version: str
    license: str


@dataclass(frozen=True, kw_only=True)
class Header:
    """What stands above the tables.

    `held_out` is whether no reward used the geometry that judges; None without a geometry judge. `geometry`
    and `rewarded_by` are models with their revisions.
    """

    judges: tuple[JudgeLine, ...]
    geometry: str | None
    rewarded_by: tuple[str, ...]
    held_out: bool | None
    min_motion: float
    notes: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        """The judge in a few words."""
        if self.geometry is None:
            return "no geometry judge"
        return f"judge {self.geometry.partition(' ')[0]} ({'held out' if self.held_out else 'not held out'})"

    def lines(self) -> list[str]:
        """Who judged, in full."""
        rewarded = ", ".join(self.rewarded_by) or "no geometry model"
        if self.geometry is None:
            lines = ["no geometry judge: no MVCS, 3DCS, motion, and no filtered table"]
        elif self.held_out:
            lines = [f"geometry judge: {self.geometry}; held out, the reward is by {rewarded}"]
        else:
            lines = [f"geometry judge: {self.geometry}; not held out, the reward is by the same model"]
        others = [f"{one.name} {one.version} (licence {one.license})" for one in self.judges]
        return [*lines, f"judges: {', '.join(others)}", *self.notes]


def header_of(
    panel: Panel, rewards: Sequence[GeometryInfo], run: Run, min_motion: float, reward: str
) -> Header:
    """The header of an evaluation in `run`, whose pairs say which geometry the training reward used.

    rewards: the geometry of the reward that the evaluation itself is scored by.
    """
    sources: dict[str, str] = {one.revision: f"{one.model} at {one.revision}" for one in rewards}
    provenance = pair_provenance(run, run.shard_dir("pairs"), None)
    for source in () if provenance is None else provenance.geometry:
        sources.setdefault(source.revision or "", f"{source.model} at {source.revision}")
    judge = panel.geometry
    trained = set() if provenance is None else {name for name, _ in provenance.rewards}
    return Header(
        judges=tuple(
            JudgeLine(name=one.name, version=one.version, license=one.license) for one in panel.judges
        ),
        geometry=None if judge is None else _named(judge.geometry),
        rewarded_by=tuple(sorted(sources.values())),
        held_out=None if judge is None else judge.geometry.revision not in sources,
        min_motion=min_motion,
        notes=_notes(panel, trained | {reward}),
    )


def _named(one: GeometryInfo) -> str:
    return f"{one.model} at {one.revision} (licence {one.license})"


def _notes(panel: Panel, rewards: set[str]) -> tuple[str, ...]:
    notes = [] if panel.geometry is None or panel.geometry.note is None else [panel.geometry.note]
    if "epipolar" in rewards:
        notes.append("the epipolar column is not held out: the reward is of the same kind")
    return tuple(notes)
