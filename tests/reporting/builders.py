"""Runs to report on: tiny videos whose frames can be told by their brightness, and strings that mean harm."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.pairing import run_pair
from storage.media.video import write_video
from storage.mining.rules import PairRules, PairSettings
from storage.run import Run
from storage.tables.records import Reject
from storage.tables.shards import write_shard
from tests.storage.builders import candidate, prompt, score

FRAMES, SIZE = 5, 32
HOSTILE = '</script><script>window.pwned=1</script><img src=x onerror="window.pwned=1">\u2028"\'&amp; 0'
IMPORTED = {
    "video": {"size": [32, 64], "turned": 90, "fps": 60},
    "by_time": {"fps": 8},
    "first_frame_psnr": 31.5,
}
WINNER, LOSER = 0, 2  # the channel that is bright
CAMERA = [1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]


def level(frame: int) -> int:
    """The brightness of a frame."""
    return 40 + 40 * frame


def clip(channel: int, frames: int = FRAMES, size: int = SIZE) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Frames of one colour, brighter from one to the next."""
    made = np.zeros((frames, size, size, 3), np.uint8)
    for frame in range(frames):
        made[frame, ..., channel] = level(frame)
    return made


def run_to_report(path: Path, pairs: int = 6, *, hostile: bool = True) -> Run:
    """A run of so many prompts with two candidates each, scored, and paired without tensors."""
    run = Run.create_or_open(path)
    sources = [path / "media" / f"source-{channel}.mp4" for channel in (WINNER, LOSER)]
    for channel, source in zip((WINNER, LOSER), sources, strict=True):
        write_video(source, clip(channel), 8.0)
    prompts, candidates, scores = [], [], []
    for number in range(pairs):
        name = f"p{number:04}"
        text = f"{HOSTILE} room {number}" if hostile and number % 2 else f"a quiet room {number}"
        moves = ["pan" if number % 3 else "tilt"]
        prompts.append(prompt(name, text=text, camera_motion=moves))
        for which, source in enumerate(sources):
            candidate_id = f"{name}-c{which}"
            uri = run.video_uri(candidate_id)
            run.resolve(uri).parent.mkdir(parents=True, exist_ok=True)
            os.link(source, run.resolve(uri))
            size: dict[str, Any] = {"num_frames": FRAMES, "height": SIZE, "width": SIZE, "video_uri": uri}
            imported = IMPORTED | {"source": f"{HOSTILE}{which}.mov"}
            size["sampler"] = json.dumps({"steps": 4, "imported": imported})
            # More digits than a number of JavaScript has.
            candidates.append(candidate(candidate_id, name, seed=2**61 + number, **size))
            scores.append(_score(candidate_id, -0.1 - which * (0.05 + 0.01 * number)))
    for source in sources:
        source.unlink()
    for table, rows in (("prompts", prompts), ("candidates", candidates), ("scores", scores)):
        write_shard(run.shard_dir(table), table, rows)
    run.record("score", {"reward": "reprojection", "geometry": "world"})
    run.record("pair", {"reward": "reprojection", "min_gap": 0.0, "index_only": True, "split": "all"})
    run_pair(run, PairSettings(rules=PairRules(min_gap=0.0), index_only=True))
    return run


def _score(candidate_id: str, value: float) -> Any:
    path = [w2c for frame in range(FRAMES) for w2c in [*CAMERA[:3], -0.1 * frame, *CAMERA[4:]]]
    return score(
        candidate_id,
        value,
        mse=-value / 10,
        image_motion=0.4,
        sharpness=0.9,
        coverage=0.95,
        frame_indices=list(range(FRAMES)),
        frame_errors=[0.01 * (frame + 1) for frame in range(FRAMES)],
        w2c=path,
        intrinsics=[30.0, 0, 15.5, 0, 30.0, 15.5, 0, 0, 1] * FRAMES,
        motion=0.2 + math.fabs(value),
    )


def with_training(run: Run, name: str = "dpo", steps: int = 60) -> None:
    """A training's log and settings."""
    folder = run.path / "train" / name
    folder.mkdir(parents=True)
    lines = [{"step": step, "loss": 0.7 - 0.005 * step, "accuracy": 0.5} for step in range(1, steps + 1)]
    lines[-1]["val/loss"] = 0.4
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 99')
    (folder / "config.json").write_text(json.dumps({"objective": "dpo", "beta": 500, "lr": 4e-4}))


def with_evaluation(run: Run, name: str = "heldout") -> None:
    """An evaluation with one table of today and one of a kind that the page does not know."""
    change = {"mean": -0.1, "low": -0.2, "high": -0.05}
    wins = {"mean": 0.9, "low": 0.8, "high": 1.0}
    row = {
        "measure": "fault",
        "base": 0.5,
        "adapter": 0.4,
        "difference": change,
        "share": {"mean": 0.8, "low": 0.6, "high": 0.9},
        "win_rate": wins,
        "prompts": 2,
    }
    strange = {"name": HOSTILE, "nested": {"deep": [1, 2]}, "nothing": None, "interval": change}
    inner = run_to_report(run.path / "eval" / name, 2, hostile=False)
    result = {
        "clips": 4,
        "truth": {"fault": 0.0625},
        "tables": {"aligned": [row]},
        "filtered": {"aligned": [row]},
        "later": {"rows": [strange]},
    }
    (inner.path / "evaluation.json").write_text(json.dumps(result))


def mixed_import(path: Path, *, scored: bool = True) -> Run:
    """Three prompts of two imported videos each, of several sizes and rates, scored without cameras."""
    run = Run.create_or_open(path)
    prompts, candidates, scores = [], [], []
    for number, (size, frames, fps) in enumerate(((16, 2, 8.0), (32, 3, 8.0), (48, 5, 24.0))):
        prompts.append(prompt(f"p{number}", text=f"my room {number}"))
        for which, channel in enumerate((WINNER, LOSER)):
            name = f"p{number}-c{which}"
            write_video(run.resolve(run.video_uri(name)), clip(channel, frames, size), fps)
            told = {"source": f"list.csv:{number}", "file": f"rooms/{number}-{which}.mov", "video": {}}
            about: dict[str, Any] = {"model": "imported", "revision": "none", "latent_uri": None}
            about |= {"num_frames": frames, "height": size, "width": size, "fps": fps}
            about["sampler"] = json.dumps({"imported": told}, separators=(",", ":"))
            candidates.append(candidate(name, f"p{number}", **about))
            scores.append(score(name, -0.1 - 0.1 * which, reward="epipolar", motion=None, image_motion=0.4))
    failed = {"num_frames": 1, "height": 144, "width": 176, "status": "failed"}
    candidates.append(candidate("lost", "p0", **failed))
    tables = {"prompts": prompts, "candidates": candidates, "scores": scores}
    for table, rows in tables.items():
        if scored or table != "scores":
            write_shard(run.shard_dir(table), table, rows)
    refused = Reject(stage="import", id="a.mp4", rule="empty", detail="is empty")
    write_shard(run.shard_dir("rejects"), "rejects", [refused])
    if scored:
        run.record("pair", {"reward": "epipolar", "min_gap": 0.0, "index_only": True, "split": "all"})
        run_pair(run, PairSettings(rules=PairRules(reward="epipolar", min_gap=0.0), index_only=True))
    return run
