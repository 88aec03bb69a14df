"""Where the videos of pairs come from: sampled or imported, from which file, and what was done to it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from storage.run import Run

Kind = Literal["sampled", "imported"]
SAMPLED, IMPORTED = get_args(Kind)
_COLUMNS = [
    "candidate_id",
    "model",
    "revision",
    "sampler",
    "num_frames",
    "width",
    "height",
    "fps",
    "video_uri",
]
_WRITTEN = "written again as H.264"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A candidate's video, whose `uri` is in the run; None for what is not known.

    `model` sampled it, or encoded it when it is imported. `source` is its file as the source of the import
    names it, of an absolute path the last part alone; `source_` are of that file as players show it, and
    `changes` what was done to it.
    """

    kind: Kind
    model: str
    revision: str
    uri: str | None
    width: int
    height: int
    fps: float
    caption: str | None = None
    source: str | None = None
    source_width: int | None = None
    source_height: int | None = None
    source_frames: int | None = None
    source_fps: float | None = None
    changes: tuple[str, ...] = ()


def origins(run: Run, candidates: Iterable[str]) -> dict[str, Origin]:
    """The origin of those of the candidates that the run holds."""
    rows = run.rows("candidates", _COLUMNS)
    wanted = pa.array(list(candidates), pa.string())
    rows = rows.filter(pc.is_in(rows["candidate_id"], value_set=wanted))
    return {row["candidate_id"]: _origin(row) for row in rows.to_pylist()}


def public_model(model: str) -> str:
    """A model's name; of a folder on this machine only its last part."""
    return PureWindowsPath(model).name if model.startswith(".") else _public(model)


def _public(path: str) -> str:
    """A relative path as it is, the last part of any other."""
    away = path.startswith(("/", "~")) or PureWindowsPath(path).drive
    return PureWindowsPath(path).name if away else path


def _origin(row: dict[str, Any]) -> Origin:
    known: dict[str, Any] = {name: row[name] for name in ("model", "revision", "width", "height", "fps")}
    known["uri"] = row["video_uri"]
    made = json.loads(row["sampler"] or "{}").get("imported")
    if made is None:
        return Origin(kind=SAMPLED, **known)
    video = made.get("video", {})
    width, height = video.get("size", (None, None))
    return Origin(
        kind=IMPORTED,
        caption=made.get("caption"),
        source=_public(made.get("file") or made["source"]),
        source_width=width,
        source_height=height,
        source_frames=video.get("frames"),
        source_fps=video.get("fps"),
        changes=tuple(_changes(made, video, row)),
        **known,
    )


def _changes(made: dict[str, Any], video: dict[str, Any], row: dict[str, Any]) -> Iterable[str]:
    """What of a video is not as its file has it; `size` of `video` is after it was turned."""
    if "turned" in video:
        yield f"turned by {video['turned']} degrees"
    if "mirrored" in video:
        yield "mirrored"
    if "pixel_shape" in video:
        yield f"pixels of {video['pixel_shape']} made square"
    if "colours" in video:
        yield f"colours converted ({video['colours']})"
    width, height = video.get("size", (row["width"], row["height"]))
    x, y = row["width"] / width, row["height"] / height
    if x != y:
        yield "cut" if made.get("fit") == "crop" else "aspect changed"
    if max(x, y) != 1 or (made.get("fit") != "crop" and x != y):
        yield f"scaled to {row['width']}x{row['height']}"
    if "by_time" in made:
        yield f"frames taken by time, at {row['fps']:g} a second"
    elif row["num_frames"] < video.get("frames", 0):
        yield f"cut to its first {row['num_frames']} frames"
    if made.get("written_again"):
        yield _WRITTEN


def file_name(origin: Origin) -> str:
    """What a copy of the video is called."""
    assert origin.uri is not None
    return PurePosixPath(origin.uri).name
