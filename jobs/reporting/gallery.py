"""The pairs of a report: columns that the page filters and sorts, and details that it loads when asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.reporting.clips import Clip
from jobs.reporting.plain import number, numbers, plain
from storage.sql.report_queries import MEASURES

PER_CHUNK = 50
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
        "per_chunk": PER_CHUNK,
    }


def detail_chunks(candidates: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What the page loads when a pair is opened: everything scored of its candidates, by name of the file."""
    return {
        f"details-{start // PER_CHUNK}": [_detail(row) for row in candidates[start : start + PER_CHUNK]]
        for start in range(0, len(candidates), PER_CHUNK)
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
