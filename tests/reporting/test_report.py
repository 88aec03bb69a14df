"""What a report holds, without a browser: the choice of pairs, files, and words for what is missing."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from jobs.main import cli
from jobs.reporting.build import Report, ReportSettings, build_report
from jobs.reporting.command import reward_of
from jobs.reporting.overview import DRAWN_STEPS, thinned
from jobs.reporting.reconstructions import MAX_POINTS, heat
from pipeline.pairing import run_pair
from pipeline.scoring.settings import RewardSettings
from pipeline.world.clips import WorldPrompt, render_prompt
from rewards.rasterise.zbuffer import backproject
from storage.errors import UserError
from storage.media.video import browser_video, plays_in_browsers, read_video, write_video
from storage.mining.rules import PairRules, PairSettings
from storage.run import Run
from storage.sql.report_queries import shown_pairs
from storage.tables.shards import write_shard
from tests.reporting.builders import (
    HOSTILE,
    clip,
    mixed_import,
    run_to_report,
    with_evaluation,
    with_training,
)
from tests.storage.builders import candidate, prompt, score


def report(run: Run, **changes: Any) -> Report:
    return build_report(run, ReportSettings(**{"reconstructions": 0, **changes}), reward_of=reward_of)


def data(page: Path, name: str) -> Any:
    """What a data file hands to the page."""
    text = (page.parent / "data" / f"{name}.js").read_text("ascii")
    head = f'"use strict";gpa.put({json.dumps(name)},'
    assert text.startswith(head)
    assert text.endswith(");\n")
    return json.loads(text[len(head) : -3])


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".locks" not in path.parts
    }


def test_the_same_report_again_changes_nothing_and_the_run_is_only_read(tmp_path: Path) -> None:
    run = run_to_report(tmp_path / "run")
    with_training(run)
    with_evaluation(run)
    before = files(run.path)
    first = report(run)
    after = files(run.path)
    assert {name: after[name] for name in before} == before
    assert all(name.startswith("report/") for name in after.keys() - before.keys())
    assert (first.pairs, first.of_pairs, first.copied, first.linked, first.missing) == (6, 6, 12, 0, 0)
    assert report(run) == first
    assert files(run.path) == after


def test_what_an_earlier_report_had_goes(tmp_path: Path) -> None:
    run = run_to_report(tmp_path / "run")
    report(run)
    fewer = report(run, pairs=2)
    assert fewer.pairs == 2
    assert len(list((run.path / "report" / "clips").iterdir())) == 4
    assert "2 of 6 pairs" in data(fewer.page, "report")["choice"]["text"]


@pytest.mark.parametrize("choice", ["spread", "widest", "narrowest", "random"])
def test_the_choice_of_pairs(tmp_path: Path, choice: Any) -> None:
    run = run_to_report(tmp_path / "run", 9)
    every = sorted(run.rows("pairs").to_pylist(), key=lambda row: (row["gap"], row["pair_id"]))
    pairs, candidates = shown_pairs(run, 4, choice)
    expected = {
        "narrowest": every[:4],
        "widest": every[-4:],
        "random": sorted(every, key=lambda row: row["pair_id"])[:4],
        # The first rank at which each further quarter of the pairs has begun.
        "spread": [every[rank] for rank in (0, 3, 5, 7)],
    }[choice]
    assert {row["pair_id"] for row in pairs} == {row["pair_id"] for row in expected}
    assert [row["gap"] for row in pairs] == sorted((row["gap"] for row in pairs), reverse=True)
    ids = {row[name] for row in pairs for name in ("winner_id", "loser_id")}
    assert {row["candidate_id"] for row in candidates} == ids
    assert all(row["value"] is not None for row in candidates)
    assert len(shown_pairs(run, 9, choice)[0]) == len(shown_pairs(run, 100, choice)[0]) == 9


def test_what_the_page_is_given(tmp_path: Path) -> None:
    run = run_to_report(tmp_path / "run")
    with_training(run)
    made = report(run)
    about, pairs = data(made.page, "report"), data(made.page, "pairs")
    assert [row["name"] for row in about["counts"]["candidates"]] == ["ok"]
    assert about["funnel"]["steps"][0] == {
        "rule": "sampled",
        "candidates_lost": 0,
        "prompts_lost": 0,
        "left": 12,
    }
    assert about["funnel"]["pairs"] == 6
    assert sum(about["rewards"][0]["bins"]["everyone"]) == 12
    assert sum(about["rewards"][0]["bins"]["winners"]) == 6
    assert about["trainings"][0]["metrics"]["val/loss"] == [[60], [0.4]]
    assert len(pairs["prompts"]) == 6
    assert pairs["candidates"]["seed"][0] == str(2**61)
    detail = data(made.page, "details-0")[0]
    assert len(detail["w2c"]) == 12 * len(detail["frame_indices"])
    text = (made.page.parent / "data" / "pairs.js").read_text()
    assert json.dumps(HOSTILE)[1:20] in text
    assert "\u2028" not in text


def test_videos_that_play_are_linked_inside_the_run_and_copied_elsewhere(tmp_path: Path) -> None:
    run = run_to_report(tmp_path / "run", 2)
    target = run.resolve(run.video_uri("p0000-c0"))
    target.unlink()
    target.write_bytes(browser_video(clip(1, 3, 300), 8.0))
    assert plays_in_browsers(target)
    inside = report(run)
    assert (inside.copied, inside.linked) == (3, 1)
    address = data(inside.page, "pairs")["candidates"]["video"][0]
    assert (inside.page.parent / address).resolve() == target.resolve()
    assert report(run) == inside
    elsewhere = report(run, out=tmp_path / "page")
    assert (elsewhere.copied, elsewhere.linked) == (4, 0)
    copy = elsewhere.page.parent / data(elsewhere.page, "pairs")["candidates"]["video"][0]
    assert copy.read_bytes() == target.read_bytes()


def test_copies_show_the_same_frames(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 1, 1, 3), dtype=np.uint8)
    for height, width in ((33, 47), (300, 1201)):
        flat = np.broadcast_to(frames, (4, height, width, 3)).copy()
        path = tmp_path / f"{height}.mp4"
        path.write_bytes(browser_video(flat, 8.0))
        shown = read_video(path)
        assert shown.shape[1] % 2 == shown.shape[2] % 2 == 0
        assert np.abs(shown.mean(axis=(1, 2)) - frames[:, 0, 0]).max() < 6
        assert max(shown.shape[1:3]) <= 960


def test_a_missing_video_is_told(tmp_path: Path) -> None:
    run = run_to_report(tmp_path / "run", 3)
    run.resolve(run.video_uri("p0001-c1")).unlink()
    run.resolve(run.video_uri("p0002-c0")).unlink()
    run.resolve(run.video_uri("p0002-c0")).write_bytes(b"no video")
    result = CliRunner().invoke(cli, ["report", str(run.path), "--reconstructions", "0", "--json"])
    assert result.exit_code == 3
    assert json.loads(result.stdout)["missing"] == 2
    assert "2 videos are missing" in result.stderr
    reasons = data(run.path / "report" / "index.html", "pairs")["candidates"]["reason"]
    assert sum(reason is not None and "media/videos/" in reason for reason in reasons) == 2


def test_other_folders_are_not_written_into_and_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    run = run_to_report(tmp_path / "run", 2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    for out in (tmp_path / "mine", run.path):
        result = CliRunner().invoke(cli, ["report", str(run.path), "--out", str(out)])
        assert result.exit_code == 1
        assert "holds other files and no report" in result.stderr
    result = CliRunner().invoke(cli, ["report", str(run.path), "--dry-run", "--json"])
    told = json.loads(result.stdout)
    assert (told["pairs"], told["videos"], told["videos_to_look_at"]) == (2, 4, 4)
    assert not (run.path / "report").exists()
    with pytest.raises(UserError, match="--pairs must be at least 0, got -1"):
        ReportSettings(pairs=-1)


def test_runs_that_are_not_there_yet_have_a_report(tmp_path: Path) -> None:
    empty = Run.create_or_open(tmp_path / "empty")
    made = report(empty)
    assert made.pairs == 0
    assert "gpa pair" in data(made.page, "report")["funnel"]["note"]
    scored = Run.create_or_open(tmp_path / "scored")
    write_shard(scored.shard_dir("prompts"), "prompts", [prompt()])
    write_shard(scored.shard_dir("candidates"), "candidates", [candidate("c0"), candidate("c1")])
    write_shard(scored.shard_dir("scores"), "scores", [score("c0"), score("c1", None)])
    assert data(report(scored).page, "report")["rewards"][0]["scored"] == 1


def test_the_funnel_says_when_it_is_not_that_of_the_shards(tmp_path: Path) -> None:
    run = run_to_report(tmp_path / "run", 3)
    line = {"prompt_id": "p0000", "winner_id": "p0000-c0", "loser_id": "p0000-c1", "decision": "drop"}
    file = tmp_path / "d.jsonl"
    file.write_text(json.dumps(line))
    run_pair(run, PairSettings(rules=PairRules(min_gap=0.0), index_only=True, decisions=file))
    run.record("pair", {"reward": "reprojection", "min_gap": 0.0, "decisions": str(file)})
    funnel = data(report(run).page, "report")["funnel"]
    assert (funnel["by_hand"]["drop"], funnel["note"]) == (1, "")
    file.unlink()
    funnel = data(report(run).page, "report")["funnel"]
    assert "no longer there" in funnel["note"]
    assert "gpa pair would now make 3" in funnel["note"]


def test_the_funnel_is_that_of_the_version_that_paired_when_the_run_has_two(tmp_path: Path) -> None:
    run = run_to_report(tmp_path / "run")
    before = data(report(run).page, "report")["funnel"]
    ids = run.rows("candidates", ["candidate_id"])["candidate_id"].to_pylist()
    write_shard(run.shard_dir("scores"), "scores", [score(one, -0.5, reward_version="v2") for one in ids])
    funnel = data(report(run).page, "report")["funnel"]
    assert funnel == before
    assert (funnel["reward"], funnel["pairs"], funnel["note"]) == ("reprojection v1", 6, "")


def test_a_run_of_refused_and_unscored_imports_is_told(tmp_path: Path) -> None:
    run = mixed_import(tmp_path / "run", scored=False)
    (videos,) = data(report(run).page, "report")["counts"]["videos"]
    assert (videos["rows"], videos["imported"], videos["sizes"]) == (6, 6, 3)
    assert (videos["smallest"], videos["largest"]) == ([16, 16], [48, 48])


def test_other_settings_than_those_of_the_scores_are_named(tmp_path: Path) -> None:
    run = run_to_report(tmp_path / "run", 2)
    made = report(run, reconstructions=1)
    assert made.reconstructed == 0
    assert "No reconstructions for reprojection v1: the last gpa score" in made.notes[0]


def test_a_reconstruction_is_that_of_the_geometry_model(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "run")
    settings = RewardSettings()
    version, _ = settings.describe()
    scene = render_prompt(WorldPrompt(scene_id="world-000001", move="pan_left", text="a room", seed=1))
    names = ["c0", "c1"]
    for name in names:
        frames = (scene.frames_THW3 * 255).round().byte().numpy()
        write_video(run.resolve(run.video_uri(name)), frames, 8.0)
    write_shard(run.shard_dir("prompts"), "prompts", [prompt()])
    rows = [candidate(name, num_frames=9, height=64, width=64) for name in names]
    write_shard(run.shard_dir("candidates"), "candidates", rows)
    scores = [score("c0", -0.1, reward_version=version), score("c1", -0.3, reward_version=version)]
    write_shard(run.shard_dir("scores"), "scores", scores)
    run_pair(run, PairSettings(rules=PairRules(min_gap=0.0), index_only=True))
    made = build_report(run, ReportSettings(), reward_of=lambda *given: settings)
    assert made.reconstructed == 2
    name = data(made.page, "pairs")["candidates"]["reconstruction"][0]
    found = data(made.page, name)
    frames_THW3 = torch.from_numpy(read_video(run.resolve(run.video_uri("c0")))).float() / 255
    backend = settings.load("cpu").geometry
    assert backend is not None
    expected = backend.reconstruct(frames_THW3)
    points = backproject(expected.depth_THW, expected.intrinsics_T33, expected.w2c_T34).view(-1, 3)
    packed = np.frombuffer(base64.b64decode(found["points"]), "<u2").reshape(-1, 3)
    low, high = np.array(found["bounds"])
    assert len(packed) == found["kept"] == min(MAX_POINTS, found["kept"]) > 5000
    some = torch.from_numpy(low + packed[::200] / 65535 * (high - low))
    assert float(torch.cdist(some, points.double()).min(dim=1).values.max()) < 2e-4 * float(
        (high - low).max()
    )
    assert (made.page.parent / found["atlas"]).stat().st_size > 0
    assert np.allclose(found["w2c"], expected.w2c_T34.flatten(), rtol=1e-4, atol=1e-5)
    before = os.stat(made.page.parent / found["atlas"]).st_mtime_ns
    assert build_report(run, ReportSettings(), reward_of=lambda *given: settings) == made
    assert os.stat(made.page.parent / found["atlas"]).st_mtime_ns == before


def test_heat_rises_in_lightness() -> None:
    colors = heat(np.linspace(0, 1, 32)).astype(float)
    lightness = colors @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > 0).all()
    assert heat(np.array([-1.0, 2.0])).tolist() == heat(np.array([0.0, 1.0])).tolist()


def test_curves_keep_their_mean() -> None:
    points = [(float(step), float(step % 7)) for step in range(1, 12_001)]
    steps, values = thinned(points)
    assert len(steps) == len(values) == DRAWN_STEPS
    assert np.mean([value for value in values if value is not None]) == pytest.approx(3.0, abs=0.01)
    assert thinned(points[:5]) == [[1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0]]
