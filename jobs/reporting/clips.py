"""The videos of a report: copies that browsers play, or links to originals that already do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jobs.reporting.folder import ReportFolder
from jobs.reporting.plain import file_key
from pipeline.engine.stage import Progress
from storage.errors import UserError
from storage.media.browser_video import plays_in_browsers, video_and_still
from storage.run import Run

# A thread holds the frames of one clip.
_THREADS = 4


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Where the page finds a candidate's video and its still, or why it has none."""

    candidate_id: str
    video: str | None = None
    still: str | None = None
    linked: bool = False
    reason: str | None = None


def names(candidate_id: str) -> tuple[str, str]:
    """The files of a candidate's copy and still in the folder."""
    key = file_key(candidate_id)
    return f"clips/{key}.mp4", f"stills/{key}.webp"


def make_clips(
    run: Run, folder: ReportFolder, rows: Sequence[dict[str, Any]], progress: Progress
) -> dict[str, Clip]:
    """Make what is missing for these candidates (candidate_id, video_uri, fps); by candidate.

    A folder inside the run links originals that browsers play; one elsewhere has copies, so that it can be
    moved on its own. A video that cannot be read costs the others nothing.
    """
    may_link = folder.path.resolve().is_relative_to(run.path.resolve())
    present = sum(all((folder.path / name).is_file() for name in names(row["candidate_id"])) for row in rows)
    made: dict[str, Clip] = {}
    progress.start("videos", len(rows), present)
    try:
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            for clip in pool.map(lambda row: _make(run, folder, row, may_link), rows):
                made[clip.candidate_id] = clip
                if len(made) > present:
                    progress.advance(int(clip.reason is None), int(clip.reason is not None))
    finally:
        progress.stop()
    return made


def _make(run: Run, folder: ReportFolder, row: dict[str, Any], may_link: bool) -> Clip:
    candidate_id = row["candidate_id"]
    if not row["video_uri"]:
        return Clip(candidate_id=candidate_id, reason=row.get("reason") or "it has no video")
    try:
        return _made(run, folder, row, may_link)
    except UserError as error:
        return Clip(candidate_id=candidate_id, reason=str(error).replace(f"{run.path}/", ""))


def _made(run: Run, folder: ReportFolder, row: dict[str, Any], may_link: bool) -> Clip:
    candidate_id = row["candidate_id"]
    video, still = names(candidate_id)
    source = run.resolve(row["video_uri"])
    if folder.holds(still):
        if folder.holds(video):
            return Clip(candidate_id=candidate_id, video=video, still=still)
        if may_link and plays_in_browsers(source):
            return _linked(folder, source, candidate_id, still)
    copy, picture = video_and_still(source, row["fps"])
    folder.put(still, picture)
    if copy is None and may_link:
        return _linked(folder, source, candidate_id, still)
    folder.put(video, source.read_bytes() if copy is None else copy)
    return Clip(candidate_id=candidate_id, video=video, still=still)


def _linked(folder: ReportFolder, source: Path, candidate_id: str, still: str) -> Clip:
    way = Path(os.path.relpath(source, folder.path)).as_posix()
    return Clip(candidate_id=candidate_id, video=quote(way), still=still, linked=True)
