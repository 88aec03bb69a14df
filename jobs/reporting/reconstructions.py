"""Reconstructions of a few pairs, made again by the geometry model that their reward used, and packed small.

Legend: K frames that are used, H height, W width, N points that are kept.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.reporting.folder import ReportFolder, file_key, number, numbers
from pipeline.engine.stage import Progress
from pipeline.scoring.settings import RewardSettings
from rewards.geometry.backends import load_backend
from rewards.geometry.reconstruction import GeometryBackend, Reconstruction, select_frames
from rewards.options import ReprojectionOptions
from rewards.rasterise.zbuffer import backproject
from rewards.reprojection import ReprojectionResult, reprojection_error
from rewards.scoring import unusable
from storage.errors import UserError
from storage.media.video import read_video
from storage.run import Run

MAX_POINTS = 16_000
_MAX_TILE = 256
_COLUMNS = 8
# Raised when the files of a reconstruction change their form: those of an earlier report are then made again.
_FORM = 1
_QUANTILE = 0.005
_HOLE = (96, 96, 104)
# Corners of a dark-to-light scale whose lightness rises evenly, so that it reads without its colours.
_HEAT = np.array(
    [
        (6, 6, 20),
        (58, 12, 96),
        (131, 34, 108),
        (205, 65, 72),
        (246, 130, 38),
        (251, 200, 84),
        (252, 253, 220),
    ],
    np.float64,
)


def _data_name(candidate_id: str, version: str) -> str:
    """The data file of a candidate's reconstruction under a reward version."""
    made_by = hashlib.sha256(f"{version}|{MAX_POINTS}|{_MAX_TILE}|{_FORM}".encode()).hexdigest()[:8]
    return f"reconstruction-{file_key(candidate_id)}-{made_by}"


def reconstruct_clips(
    run: Run,
    folder: ReportFolder,
    rows: Sequence[dict[str, Any]],
    settings: RewardSettings,
    progress: Progress,
) -> dict[str, str]:
    """Write what is missing for these candidates; the data files by candidate, without those that failed."""
    version, _ = settings.describe()
    names = {row["candidate_id"]: _data_name(row["candidate_id"], version) for row in rows}
    missing = [row for row in rows if not _is_held(folder, names[row["candidate_id"]])]
    failed: set[str] = set()
    progress.start("reconstructions", len(rows), len(rows) - len(missing))
    try:
        backend = _backend(settings) if missing else None
        for row in missing:
            assert backend is not None
            done = _write(run, folder, row, names[row["candidate_id"]], settings, backend)
            failed |= set() if done else {row["candidate_id"]}
            progress.advance(int(done), int(not done))
    finally:
        progress.stop()
    return {candidate_id: name for candidate_id, name in names.items() if candidate_id not in failed}


def _is_held(folder: ReportFolder, name: str) -> bool:
    return folder.holds(f"data/{name}.js") and folder.holds(_atlas_name(name))


def _atlas_name(name: str) -> str:
    return f"reconstructions/{name.removeprefix('reconstruction-')}.webp"


def _backend(settings: RewardSettings) -> GeometryBackend:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_backend(
        settings.geometry, model=settings.geometry_model, revision=settings.geometry_revision, device=device
    )


@torch.no_grad()
def _write(
    run: Run,
    folder: ReportFolder,
    row: dict[str, Any],
    name: str,
    settings: RewardSettings,
    backend: GeometryBackend,
) -> bool:
    """Whether the clip could be reconstructed; the page then shows that it has none."""
    try:
        frames_THW3 = torch.from_numpy(read_video(run.resolve(row["video_uri"]))).float() / 255
    except UserError:
        return False
    # The picture needs no perceptual distance, and so not its weights.
    options = dataclasses.replace(settings.reward_options(), perceptual="none")
    indices = select_frames(frames_THW3.shape[0], options.frames)
    if unusable(frames_THW3[indices]) is not None:
        return False
    reconstruction = backend.reconstruct(frames_THW3[indices])
    error = reprojection_error(reconstruction, options)
    if error.images_THW3 is None:
        return False
    columns = min(_COLUMNS, len(indices))
    atlas, about = _atlas(error, columns)
    folder.put(_atlas_name(name), atlas)
    about |= {"atlas": _atlas_name(name), "columns": columns, "frame_indices": list(indices)}
    folder.put_data(name, about | _cloud(reconstruction))
    return True


def _atlas(error: ReprojectionResult, columns: int) -> tuple[bytes, dict[str, Any]]:
    """K reprojections and after them K maps of the error, as tiles of one picture."""
    from PIL import Image

    assert error.images_THW3 is not None
    assert error.hit_THW is not None
    assert error.error_maps_THW is not None
    hit_KHW = error.hit_THW.cpu().numpy()
    drawn = (error.images_THW3.cpu().numpy() * 255).round().astype(np.uint8)
    drawn[~hit_KHW] = _HOLE
    root_KHW = error.error_maps_THW.sqrt().cpu().numpy()
    # One scale for all clips: two maps side by side are compared by their colours.
    hot = heat(root_KHW / _FULL_SCALE)
    hot[~hit_KHW] = _HOLE
    tiles = [Image.fromarray(tile) for tile in (*drawn, *hot)]
    for tile in tiles:
        tile.thumbnail((_MAX_TILE, _MAX_TILE))
    width, height = tiles[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height))
    for at, tile in enumerate(tiles):
        sheet.paste(tile, (at % columns * width, at // columns * height))
    target = io.BytesIO()
    sheet.save(target, format="WEBP", quality=88, method=2)
    errors = [number(float(one.mean()), 4) for one in root_KHW]
    return target.getvalue(), {"tile": [width, height], "frames": len(drawn), "tile_errors": errors}


_FULL_SCALE = 0.25  # root of the squared error, of colours in [0, 1], that has the lightest colour


def heat(value_KHW: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Values from 0 to 1 as colours, dark to light."""
    place = np.clip(value_KHW, 0, 1) * (len(_HEAT) - 1)
    below = np.minimum(place.astype(int), len(_HEAT) - 2)
    share = (place - below)[..., None]
    colors: NDArray[np.uint8] = (
        (_HEAT[below] * (1 - share) + _HEAT[below + 1] * share).round().astype(np.uint8)
    )
    return colors


def _cloud(reconstruction: Reconstruction) -> dict[str, Any]:
    """At most N points: positions in 16 bits of their bounds, colours in 8, and the frame each comes from."""
    points_KHW3 = backproject(
        reconstruction.depth_THW, reconstruction.intrinsics_T33, reconstruction.w2c_T34
    ).cpu()
    usable = (reconstruction.depth_THW > 0).cpu() & points_KHW3.isfinite().all(dim=-1)
    points_N3 = points_KHW3[usable].numpy().astype(np.float64)
    colors_N3 = reconstruction.frames_THW3.cpu()[usable].numpy()
    frame_N = _frame_numbers(reconstruction)[usable].numpy()
    low, high = np.quantile(points_N3, [_QUANTILE, 1 - _QUANTILE], axis=0)
    margin = 0.25 * (high - low) + 1e-9
    inside = ((points_N3 >= low - margin) & (points_N3 <= high + margin)).all(axis=1)
    kept = np.flatnonzero(inside)
    if len(kept) > MAX_POINTS:
        kept = np.sort(np.random.default_rng(0).choice(kept, MAX_POINTS, replace=False))
    bounds = points_N3[kept].min(axis=0), points_N3[kept].max(axis=0)
    scaled = (points_N3[kept] - bounds[0]) / np.maximum(bounds[1] - bounds[0], 1e-12) * 65535
    height, width = reconstruction.size
    return {
        "points": _encoded(scaled.round().astype("<u2")),
        "colors": _encoded((colors_N3[kept] * 255).round().astype(np.uint8)),
        "point_frames": _encoded(np.minimum(frame_N[kept], 255).astype(np.uint8)),
        "bounds": [numbers(bounds[0].tolist()), numbers(bounds[1].tolist())],
        "kept": len(kept),
        "total": math.prod(reconstruction.depth_THW.shape),
        "w2c": numbers(reconstruction.w2c_T34.flatten().tolist()),
        "intrinsics": numbers(reconstruction.intrinsics_T33.flatten().tolist()),
        "size": [width, height],
    }


def _frame_numbers(reconstruction: Reconstruction) -> Tensor:
    frames = torch.arange(reconstruction.num_frames)
    return frames[:, None, None].expand(reconstruction.depth_THW.shape)


def _encoded(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


def reprojection_options(settings: RewardSettings) -> ReprojectionOptions | None:
    """The options by which a reward reprojects; None for one that does not."""
    options = settings.reward_options()
    return options if isinstance(options, ReprojectionOptions) else None
