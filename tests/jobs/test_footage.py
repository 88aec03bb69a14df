"""What a user reads of footage that spoils the reward, when it is scored and when it is paired."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rewards.footage.footage import measure_footage
from storage.media.video import read_video, write_video
from storage.run import Run
from tests.jobs.test_cli import gpa
from tests.jobs.test_old_run import FIXTURE, PAIR

RULES = [*PAIR, "--reward", "reprojection", "--max-error", "inf"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that was scored before footage was measured; the first of its videos has a cut."""
    path = Path(shutil.copytree(FIXTURE / "run", tmp_path / "run"))
    first, *_, last = sorted((path / "media" / "videos").iterdir())
    frames = np.concatenate([read_video(first)[:5], 255 - read_video(last)[5:]])
    write_video(first, frames, 8)
    return path


def test_a_cut_is_said_where_it_is_scored_and_left_out_where_it_is_paired(run: Path) -> None:
    scored = gpa("score", run, "--reward", "reprojection", "--workers", 0)
    assert scored.exit_code == 0, scored.stderr
    assert "1 of 9 videos break the rule cut: gpa pair leaves them out (--max-cut 0.3)" in scored.stdout
    rows = {
        row["candidate_id"]: row
        for row in Run.open(run).rows("scores").to_pylist()
        if row["reward"] == "reprojection"
    }
    for name, row in rows.items():
        found = measure_footage(read_video(run / "media" / "videos" / f"{name}.mp4"))
        assert (row["cut"], row["fade"], row["bars"]) == (found.cut, found.fade, found.bars)
        assert tuple(row["thumbnail"]) == found.thumbnail
    lost = _lost(run, *RULES)
    assert (lost["cut"], lost["unmeasured"]) == (1, 0)
    assert _lost(run, *RULES, "--max-cut", 1)["cut"] == 0


def test_scores_from_before_pass_and_the_command_says_so(run: Path) -> None:
    paired = gpa("pair", run, *PAIR)
    assert paired.exit_code == 0, paired.stderr
    assert "9 candidates pass the rules on cuts, fades, bars and copies" in paired.stdout
    assert _lost(run, *PAIR) | {"unmeasured": 9, "cut": 0, "bars": 0, "copies": 0} == _lost(run, *PAIR)


def _lost(run: Path, *words: object) -> dict[str, int]:
    """Candidates that the rules cost, and those that were not measured."""
    done = gpa("pair", run, *words, "--dry-run", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    return {step["rule"]: step["candidates_lost"] for step in told["funnel"]} | {
        "unmeasured": told["unmeasured"]
    }
