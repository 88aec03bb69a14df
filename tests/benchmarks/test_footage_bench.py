"""The study of footage, at its smallest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from jobs.bench.spoiling.faults import COPIES, FAULTS
from storage.media.video import write_video
from tests.jobs.test_cli import gpa


def test_faults_are_found_and_clips_as_they_are_are_not(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), dtype=np.uint8)
    write_video(tmp_path / "noise.mp4", frames.repeat(8, axis=1).repeat(8, axis=2).repeat(2, axis=0), 8)
    done = gpa("bench", "footage", "--clips", 2, "--videos", tmp_path, "--json")
    assert done.exit_code == 0, done.stderr
    false_alarms, _, hits, curves, copies = (
        {row["source"]: row for row in table["rows"]} for table in json.loads(done.stdout)
    )
    assert set(false_alarms) == {"world", "world with faults", "noise"}
    world: dict[str, Any] = false_alarms["world"]
    assert world["clips"] == 2
    assert [world[name] for name in ("cut > 0.3", "fade > 0.25", "bars > 0.02")] == [0, 0, 0]
    assert hits["world"]["cut"] == hits["world"]["letterbox 25 %"] == hits["world"]["to black"] == 1
    assert set(FAULTS) <= set(curves["noise"])
    assert curves["world"]["cut"] == 1
    assert set(COPIES) <= set(copies["world"])
    assert 0 <= copies["world"]["encoded again"] < 0.2
