"""The evaluations of a report: their tables as they were written, and clips of all models side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.reporting.clips import Clip, make_clips, names
from jobs.reporting.folder import ReportFolder, number, plain
from pipeline.engine.stage import Progress
from pipeline.evaluation.judges import judge as judging
from pipeline.world.clips import WorldPrompt, render_prompt
from storage.errors import UserError
from storage.media.video import browser_video, still
from storage.run import RUN_FILE, Run
from storage.tables.shards import shard_files

BASE, TRUTH = "base", "ground truth"
_TABLES = "evaluation.json"


def evaluations(run: Run, folder: ReportFolder, prompts: int, progress: Progress) -> list[dict[str, Any]]:
    """Every evaluation of a run that has a table or clips, with the clips of at most `prompts` prompts."""
    paths = sorted(path for path in (run.path / "eval").glob("*") if path.is_dir())
    found = [_evaluation(path, folder, prompts, progress) for path in paths]
    return [one for one in found if one["result"] or one["groups"]]


def _evaluation(path: Path, folder: ReportFolder, prompts: int, progress: Progress) -> dict[str, Any]:
    result, groups, note = _result(path), [], None
    try:
        groups = _groups(path, folder, result, prompts, progress) if prompts else []
    except UserError as error:
        note = f"The clips cannot be shown: {error}"
    return {"name": path.name, "result": result, "about": _about(result), "groups": groups, "note": note}


def _about(result: dict[str, Any]) -> dict[str, str]:
    """What every measure is, in the words of the evaluation, or of this gpa where it has none."""
    own = result.pop("measures", None)
    if isinstance(own, dict):
        return {
            name: str(one["about"]) for name, one in own.items() if isinstance(one, dict) and "about" in one
        }
    return {measure.name: measure.about for measure in getattr(judging, "MEASURES", ())}


def _result(path: Path) -> dict[str, Any]:
    """What the evaluation wrote, whatever else a later gpa adds to it."""
    try:
        result = json.loads((path / _TABLES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(result, dict):
        return {}
    result.pop("contact_sheet", None)
    shortened = plain(result)
    return shortened if isinstance(shortened, dict) else {}


def _groups(
    path: Path, folder: ReportFolder, result: dict[str, Any], prompts: int, progress: Progress
) -> list[dict[str, Any]]:
    if not (path / RUN_FILE).is_file():
        return []
    inner = Run.open(path)
    candidates = [row for row in inner.rows("candidates").to_pylist() if row["status"] == "ok"]
    model_of = _model_names(path, candidates, result)
    texts = {row["prompt_id"]: row for row in inner.rows("prompts").to_pylist()}
    chosen = [
        _of_prompt([row for row in candidates if row["prompt_id"] == one], model_of)
        for one in _spread(sorted({row["prompt_id"] for row in candidates}), prompts)
    ]
    rows = [row for group in chosen for row in group]
    clips = make_clips(inner, folder, rows, progress) if rows else {}
    return [
        _group(group, texts.get(group[0]["prompt_id"]), clips, model_of, folder) for group in chosen if group
    ]


def _spread(values: Sequence[str], most: int) -> list[str]:
    if len(values) <= most:
        return list(values)
    return [values[at] for at in np.linspace(0, len(values) - 1, most).round().astype(int)]


def _of_prompt(rows: list[dict[str, Any]], model_of: dict[str, str]) -> list[dict[str, Any]]:
    """A clip of every model for a prompt, with the first seed that most models have."""
    known = [row for row in rows if row["candidate_id"] in model_of]
    seeds = [row["seed"] for row in known]
    if not seeds:
        return []
    seed = max(sorted(set(seeds)), key=seeds.count)
    one_each = {model_of[row["candidate_id"]]: row for row in known if row["seed"] == seed}
    return [one_each[name] for name in sorted(one_each, key=lambda name: (name != BASE, name))]


def _group(
    rows: list[dict[str, Any]],
    prompt: dict[str, Any] | None,
    clips: dict[str, Clip],
    model_of: dict[str, str],
    folder: ReportFolder,
) -> dict[str, Any]:
    shown = [(model_of[row["candidate_id"]], clips[row["candidate_id"]], row) for row in rows]
    truth = None if prompt is None else _truth(prompt, folder, rows[0]["fps"])
    columns = [] if truth is None else [_column(TRUTH, truth, rows[0])]
    return {
        "text": prompt["text"] if prompt else rows[0]["prompt_id"],
        "seed": str(rows[0]["seed"]),
        "clips": columns + [_column(name, clip, row) for name, clip, row in shown],
    }


def _column(name: str, clip: Clip, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "video": clip.video,
        "still": clip.still,
        "reason": clip.reason,
        "frames": row["num_frames"],
        "fps": number(row["fps"]),
        "width": row["width"],
        "height": row["height"],
    }


def _truth(prompt: dict[str, Any], folder: ReportFolder, fps: float) -> Clip | None:
    """The clip that a perfect model would make of a prompt of the embedded world; None for any other."""
    try:
        world = json.loads(prompt["metadata"])["world"]
        known = WorldPrompt(
            scene_id=world["scene_id"], move=world["move"], text=prompt["text"], seed=world["seed"]
        )
    except (ValueError, KeyError, TypeError):
        return None
    name = f"truth-{prompt['prompt_id']}"
    video, picture = names(name)
    if not (folder.holds(video) and folder.holds(picture)):
        frames = (render_prompt(known).frames_THW3 * 255).round().byte().numpy()
        folder.put(video, browser_video(frames, fps))
        folder.put(picture, still(frames[-1]))
    return Clip(candidate_id=name, video=video, still=picture)


def _model_names(path: Path, candidates: list[dict[str, Any]], result: dict[str, Any]) -> dict[str, str]:
    """The name of the model of every candidate: as the evaluation recorded it, or by its adapter."""
    recorded = _recorded_names(path)
    if recorded:
        return recorded
    adapters = sorted({row["adapter"] for row in candidates if row["adapter"] is not None})
    tables = result.get("tables")
    labels = {adapter: f"adapter {adapter[:8]}" for adapter in adapters}
    if isinstance(tables, dict) and len(tables) == len(adapters) == 1:
        labels = {adapters[0]: str(next(iter(tables)))}
    return {row["candidate_id"]: labels.get(row["adapter"], BASE) for row in candidates}


def _recorded_names(path: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    for shard in shard_files(path / "clips"):
        try:
            table = pq.read_table(shard, columns=["candidate_id", "model_name"])
        except (pa.ArrowException, OSError, KeyError) as error:
            raise UserError(f"{shard} cannot be read: delete it and run gpa evaluate again") from error
        names |= dict(zip(table["candidate_id"].to_pylist(), table["model_name"].to_pylist(), strict=True))
    return names
