"""The videos of a report, and the pairs that the page filters, sorts and loads in detail when asked."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jobs.reporting.folder import ReportFolder, file_key, number, numbers, plain
from pipeline.engine.stage import Progress
from storage.errors import UserError
from storage.media.video import plays_in_browsers, video_and_still
from storage.run import Run
from storage.sql.report_queries import MEASURES

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


_PER_CHUNK = 50
_OF_CANDIDATE = ("value", "motion", "image_motion", "sharpness", "coverage")


def pair_columns(
    pairs: Sequence[dict[str, Any]],
    candidates: Sequence[dict[str, Any]],
    clips: Mapping[str, Clip],
    reconstructed: Mapping[str, str],
) -> dict[str, Any]:
    """Prompts, candidates and pairs; pairs name their prompt and candidates by position.

    `reconstructed` gives the data file of the candidates that have a reconstruction.
    """
    prompts = {row["prompt_id"]: row for row in pairs}
    prompt_at = {name: at for at, name in enumerate(prompts)}
    candidate_at = {row["candidate_id"]: at for at, row in enumerate(candidates)}
    known = [row for row in pairs if row["winner_id"] in candidate_at and row["loser_id"] in candidate_at]
    return {
        "prompts": [
            {"id": name, "text": row["text"], "scene": row["scene_id"], "camera": row["camera_motion"] or []}
            for name, row in prompts.items()
        ],
        "candidates": {
            "id": [row["candidate_id"] for row in candidates],
            # Seeds have more digits than the page's numbers.
            "seed": [str(row["seed"]) for row in candidates],
            "video": [clips[row["candidate_id"]].video for row in candidates],
            "still": [clips[row["candidate_id"]].still for row in candidates],
            "reason": [clips[row["candidate_id"]].reason for row in candidates],
            "frames": [row["num_frames"] for row in candidates],
            "fps": [number(row["fps"]) for row in candidates],
            "width": [row["width"] for row in candidates],
            "height": [row["height"] for row in candidates],
            "reconstruction": [reconstructed.get(row["candidate_id"]) for row in candidates],
            **{name: [number(row[name], 5) for row in candidates] for name in _OF_CANDIDATE},
        },
        "pairs": {
            "id": [row["pair_id"] for row in known],
            "prompt": [prompt_at[row["prompt_id"]] for row in known],
            "winner": [candidate_at[row["winner_id"]] for row in known],
            "loser": [candidate_at[row["loser_id"]] for row in known],
            "split": [row["split"] for row in known],
            "gap": [number(row["gap"], 5) for row in known],
            "human": [row["human"] for row in known],
        },
        "per_chunk": _PER_CHUNK,
    }


def detail_chunks(candidates: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What the page loads when a pair is opened: everything scored of its candidates, by name of the file."""
    return {
        f"details-{start // _PER_CHUNK}": [_detail(row) for row in candidates[start : start + _PER_CHUNK]]
        for start in range(0, len(candidates), _PER_CHUNK)
    }


def _detail(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": row["model"],
        "revision": row["revision"],
        "adapter": row["adapter"],
        "sampler": _object(row["sampler"]),
        "reward": row["reward"],
        "reward_version": row["reward_version"],
        "geometry": row["geometry_model"],
        "measures": {name: number(row[name]) for name in MEASURES if row[name] is not None},
        "frame_indices": row["frame_indices"] or [],
        "frame_errors": numbers(row["frame_errors"], 4),
        "w2c": numbers(row["w2c"], 5),
        "intrinsics": numbers(row["intrinsics"], 5),
    }


def _object(text: str | None) -> Any:
    try:
        return plain(json.loads(text or "{}"))
    except ValueError:
        return {}
