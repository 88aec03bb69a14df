"""gpa report: everything that the page needs, gathered into one folder that opens without a server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs.reporting import clips as gallery
from jobs.reporting import evaluations, overview, reconstructions
from jobs.reporting import overview as training
from jobs.reporting.clips import Clip, make_clips, names
from jobs.reporting.folder import PAGE, ReportFolder
from pipeline.engine.stage import Progress, Silent
from pipeline.scoring.settings import RewardSettings
from rewards.errors import RewardError
from storage.errors import UserError
from storage.run import Run
from storage.sql.report_queries import CHOICES, Choice, Row, shown_pairs
from storage.sql.report_queries import overview as count
from storage.sql.views import Limits
from storage.tables.ids import content_id

_CHOSEN = {
    "spread": "at equal distances over the ranks of the gap",
    "widest": "those of the widest gap",
    "narrowest": "those of the narrowest gap",
    "random": "the first by id, which is a random sample",
}


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """What `gpa report` is asked for; None for `out` is RUN/report.

    At most `pairs` pairs, chosen by `choice`, `reconstructions` of them with a reconstruction, and
    `eval_prompts` prompts of every evaluation with clips.
    """

    out: Path | None = None
    pairs: int = 500
    choice: Choice = "spread"
    reconstructions: int = 12
    eval_prompts: int = 8

    def __post_init__(self) -> None:
        for name in ("pairs", "reconstructions", "eval_prompts"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name.replace('_', '-')} must be at least 0, got {getattr(self, name)}")
        if self.choice not in CHOICES:
            raise UserError(f"--choose must be one of {', '.join(CHOICES)}, got {self.choice!r}")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a report holds: pairs of all pairs, clips as copies, as links or not at all, and its bytes."""

    page: Path
    pairs: int
    of_pairs: int
    copied: int
    linked: int
    missing: int
    missing_reason: str | None
    reconstructed: int
    notes: tuple[str, ...]
    bytes: int
    video_bytes: int


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """The pairs to show, their candidates, and those of the pairs whose reconstruction is shown."""

    pairs: list[Row]
    candidates: list[Row]
    of_pairs: int

    def reconstructed(self, most: int) -> list[Row]:
        """The candidates of at most `most` pairs, spread over all."""
        if not self.pairs or not most:
            return []
        places = np.linspace(0, len(self.pairs) - 1, min(most, len(self.pairs))).round().astype(int)
        ids = {self.pairs[at][name] for at in places for name in ("winner_id", "loser_id")}
        return [row for row in self.candidates if row["candidate_id"] in ids]


def plan_report(run: Run, settings: ReportSettings, limits: Limits | None = None) -> dict[str, Any]:
    """What `build_report` would show, and how much of it would have to be made. Nothing is written."""
    counts = count(run, limits)
    shown = _shown(run, settings, counts, limits)
    folder = ReportFolder(settings.out or run.path / "report")
    missing = [
        row
        for row in shown.candidates
        if not all((folder.path / name).is_file() for name in names(row["candidate_id"]))
    ]
    return {
        "page": str(folder.path / PAGE),
        "pairs": len(shown.pairs),
        "of_pairs": shown.of_pairs,
        "videos": len(shown.candidates),
        "videos_to_look_at": len(missing),
        "reconstructions": len(shown.reconstructed(settings.reconstructions)),
    }


def build_report(
    run: Run,
    settings: ReportSettings,
    *,
    reward_of: Callable[[Run, str, str], RewardSettings],
    progress: Callable[[str], Progress] = lambda unit: Silent(),
    limits: Limits | None = None,
) -> Report:
    """Write the report, or what is missing of it; nothing else of the run is touched.

    `reward_of` gives the settings behind a reward version, or raises UserError or RewardError. The same call
    again changes no byte. Raises UserError for a folder that holds something else, and for damaged shards.
    """
    folder = ReportFolder(settings.out or run.path / "report")
    counts = count(run, limits)
    shown = _shown(run, settings, counts, limits)
    notes: list[str] = []
    clips = make_clips(run, folder, shown.candidates, progress("videos")) if shown.candidates else {}
    scenes = _reconstruct(run, folder, shown, clips, settings, reward_of, progress, notes)
    for name, details in gallery.detail_chunks(shown.candidates).items():
        folder.put_data(name, details)
    report = overview.run_facts(run, counts) | {
        # Decisions are kept in the browser under this name: it must outlive a new report of the same run.
        "key": content_id("report", str(run.header()["created_at"]), run.path.resolve().name)[:16],
        "funnel": overview.funnel(run, counts["paired_by"], limits),
        "rewards": overview.distributions(run, counts["rewards"], limits),
        "choice": _choice(settings, shown, clips, scenes),
        "trainings": training.trainings(run),
        "evaluations": evaluations.evaluations(run, folder, settings.eval_prompts, progress("clips")),
        "notes": notes,
    }
    folder.put_data("report", report)
    folder.put_data("pairs", gallery.pair_columns(shown.pairs, shown.candidates, clips, scenes))
    # Last: a page that is there finds what it names.
    folder.put_page()
    folder.finish()
    size, video_size = folder.size()
    missing = [clip for clip in clips.values() if clip.reason is not None]
    return Report(
        page=folder.path / PAGE,
        pairs=len(shown.pairs),
        of_pairs=shown.of_pairs,
        copied=len(clips) - len(missing) - sum(clip.linked for clip in clips.values()),
        linked=sum(clip.linked for clip in clips.values()),
        missing=len(missing),
        missing_reason=missing[-1].reason if missing else None,
        reconstructed=len(scenes),
        notes=tuple(notes),
        bytes=size,
        video_bytes=video_size,
    )


def _shown(run: Run, settings: ReportSettings, counts: dict[str, list[Row]], limits: Limits | None) -> _Shown:
    total = sum(row["rows"] for row in counts["pairs"])
    if not total or not settings.pairs:
        return _Shown(pairs=[], candidates=[], of_pairs=total)
    pairs, candidates = shown_pairs(run, settings.pairs, settings.choice, limits)
    return _Shown(pairs=pairs, candidates=candidates, of_pairs=total)


def _reconstruct(
    run: Run,
    folder: ReportFolder,
    shown: _Shown,
    clips: dict[str, Clip],
    settings: ReportSettings,
    reward_of: Callable[[Run, str, str], RewardSettings],
    progress: Callable[[str], Progress],
    notes: list[str],
) -> dict[str, str]:
    """The data files of reconstructions by candidate; a note says why there are none."""
    rows = [row for row in shown.reconstructed(settings.reconstructions) if clips[row["candidate_id"]].video]
    if not rows:
        return {}
    made: dict[str, str] = {}
    for reward, version in sorted({(str(row["reward"]), str(row["reward_version"])) for row in rows}):
        mine = [row for row in rows if (str(row["reward"]), str(row["reward_version"])) == (reward, version)]
        try:
            chosen = reward_of(run, reward, version)
            if reconstructions.reprojection_options(chosen) is None:
                notes.append(f"Reward {reward} uses no geometry: its pairs have no reconstructions.")
                continue
            made |= reconstructions.reconstruct_clips(run, folder, mine, chosen, progress("clips"))
        except (UserError, RewardError) as error:
            notes.append(f"No reconstructions for {reward} {version}: {error}")
    return made


def _choice(
    settings: ReportSettings, shown: _Shown, clips: dict[str, Clip], scenes: dict[str, str]
) -> dict[str, Any]:
    whole = len(shown.pairs) == shown.of_pairs
    text = (
        "all pairs"
        if whole
        else f"{len(shown.pairs):,} of {shown.of_pairs:,} pairs, {_CHOSEN[settings.choice]}"
    )
    linked = sum(clip.linked for clip in clips.values())
    missing = sum(clip.reason is not None for clip in clips.values())
    return {
        "text": text,
        "pairs": len(shown.pairs),
        "of_pairs": shown.of_pairs,
        "copied": len(clips) - linked - missing,
        "linked": linked,
        "missing": missing,
        "reconstructed": len(scenes),
    }
