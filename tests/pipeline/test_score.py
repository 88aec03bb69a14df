from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.scoring.score import plan_score, run_score
from pipeline.scoring.settings import RewardSettings, ScoreSettings
from rewards.errors import RewardError
from storage.errors import UserError
from storage.media.video import write_video
from storage.run import Run
from storage.tables.records import Candidate
from storage.tables.shards import write_shard
from tests.storage.builders import candidate, prompt

CANDIDATES = 5


def settings(geometry: Path, *, workers: int = 0, batch: int = 2, **options: Any) -> ScoreSettings:
    reward = RewardSettings(
        geometry="world", geometry_model=str(geometry), options={"frames": 3, "views": "all", **options}
    )
    return ScoreSettings(reward=reward, batch=batch, workers=workers)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Two prompts with videos of noise, and one candidate whose sampling failed."""
    run = Run.create_or_open(tmp_path / "run")
    generator = np.random.default_rng(0)
    made = [candidate(f"c{number}", f"p{number % 2}") for number in range(CANDIDATES)]
    for one in made:
        frames = generator.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
        write_video(run.resolve(run.video_uri(one.candidate_id)), frames, 8)
    made.append(candidate("bad", "p0", status="failed"))
    write_shard(run.shard_dir("prompts"), "prompts", [prompt("p0"), prompt("p1")])
    write_shard(run.shard_dir("candidates"), "candidates", made)
    return run


def scores(run: Run) -> dict[str, dict[str, Any]]:
    return {row["candidate_id"]: row for row in run.rows("scores").to_pylist()}


def test_every_component_of_a_score_is_kept(run: Run, tiny_geometry: Path) -> None:
    plan, summary = run_score(run, settings(tiny_geometry))
    assert (summary.wanted, summary.done, summary.failed) == (CANDIDATES, CANDIDATES, 0)
    found = scores(run)
    assert set(found) == {f"c{number}" for number in range(CANDIDATES)}
    for row in found.values():
        assert row["reward_version"] == plan.reward_version
        assert row["value"] == pytest.approx(-np.mean(row["frame_errors"]))
        assert (len(row["frame_indices"]), len(row["w2c"]), len(row["intrinsics"])) == (3, 36, 27)
        assert (row["geometry_model"], row["perceptual"]) == (tiny_geometry.name, "none")
        assert row["geometry_license"]
        assert 0 <= row["coverage"] <= 1
        assert row["motion"] >= 0


def test_the_same_call_scores_only_what_is_missing_and_other_options_score_beside(
    run: Run, tiny_geometry: Path
) -> None:
    run_score(run, settings(tiny_geometry))
    _, again = run_score(run, settings(tiny_geometry, batch=3))
    assert (again.present, again.done) == (CANDIDATES, 0)
    next(iter(sorted(run.shard_dir("scores").glob("*.parquet")))).unlink()
    _, healed = run_score(run, settings(tiny_geometry))
    assert healed.present + healed.done == CANDIDATES
    assert healed.done > 0
    _, other = run_score(run, settings(tiny_geometry, hole_penalty=0.5))
    assert (other.present, other.done) == (0, CANDIDATES)
    assert run.rows("scores").num_rows == 2 * CANDIDATES


def test_a_truncated_video_is_rejected_and_scored_once_it_is_mended(run: Run, tiny_geometry: Path) -> None:
    path = run.resolve(run.video_uri("c1"))
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    run.resolve(run.video_uri("c2")).unlink()
    _, summary = run_score(run, settings(tiny_geometry))
    assert (summary.done, summary.failed) == (CANDIDATES - 2, 2)
    rejects = {row["id"]: row for row in run.rows("rejects").to_pylist()}
    assert set(rejects) == {"c1", "c2"}
    for name, row in rejects.items():
        assert (row["stage"], row["rule"]) == ("score", "unreadable")
        assert row["detail"].startswith(f"media/videos/{name}.mp4 cannot be read as a video")
    path.write_bytes(whole)
    _, mended = run_score(run, settings(tiny_geometry))
    assert (mended.present, mended.done, mended.failed) == (CANDIDATES - 2, 1, 1)
    assert scores(run)["c1"]["value"] is not None


def test_a_flat_video_is_unscorable_with_its_reason(run: Run, tiny_geometry: Path) -> None:
    write_video(run.resolve(run.video_uri("c0")), np.zeros((4, 32, 32, 3), dtype=np.uint8), 8)
    _, summary = run_score(run, settings(tiny_geometry))
    assert summary.failed == 1
    assert "flat colour" in scores(run)["c0"]["reason"]


def test_a_value_depends_on_no_other_candidate(run: Run, tiny_geometry: Path) -> None:
    run_score(run, settings(tiny_geometry, batch=5))
    together = {name: row["value"] for name, row in scores(run).items()}
    for path in run.shard_dir("scores").glob("*.parquet"):
        path.unlink()
    run_score(run, settings(tiny_geometry, batch=1))
    assert {name: row["value"] for name, row in scores(run).items()} == together


def test_runs_without_anything_to_score_are_explained(tmp_path: Path, tiny_geometry: Path) -> None:
    run = Run.create_or_open(tmp_path / "empty")
    with pytest.raises(UserError, match=r"holds no candidates: run `gpa sample"):
        plan_score(run, settings(tiny_geometry))
    write_shard(run.shard_dir("candidates"), "candidates", [candidate("bad", "p0", status="failed")])
    with pytest.raises(UserError, match=r"every candidate of .* failed: see the reason"):
        plan_score(run, settings(tiny_geometry))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": "beauty"}, "reward 'beauty' does not exist; choose one of: reprojection"),
        ({"options": {"frames": 1}}, "reward 'reprojection': frames must be >= 2"),
        ({"options": {"colour": 1}}, "reward 'reprojection' has no option 'colour'; it has frames"),
    ],
)
def test_bad_rewards_are_explained(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        RewardSettings(**changes)


def test_missing_geometry_is_explained_before_any_worker_starts(run: Run) -> None:
    unknown = ScoreSettings(reward=RewardSettings(geometry="lidar"), workers=2)
    with pytest.raises(RewardError, match=r"geometry backend 'lidar' does not exist; choose one of"):
        run_score(run, unknown)


def test_a_preset_for_one_reward_serves_another_and_the_command_line_does_not() -> None:
    from jobs.data.score import score_settings

    section = {"reward": "reprojection", "geometry": "world", "pairs": "first", "frames": 9}
    assert score_settings(section).reward.options == {"frames": 9}
    assert score_settings(section | {"reward": "combined"}).reward.options == {"frames": 9, "pairs": "first"}
    with pytest.raises(RewardError, match="reward 'reprojection' has no option 'pairs'; it has frames, "):
        score_settings(section, given={"pairs"})


def test_the_driver_builds_no_network(run: Run, tiny_geometry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = settings(tiny_geometry).reward.load("cpu").version
    monkeypatch.setattr(
        "pipeline.scoring.settings.load_backend", lambda *_, **__: pytest.fail("a network was built")
    )
    plan = plan_score(run, settings(tiny_geometry))
    assert plan.reward_version == wanted
    assert plan.geometry is not None
    assert (plan.geometry.name, plan.geometry.license) == ("world", "Apache-2.0")


def test_clips_may_share_a_forward_and_a_bad_video_costs_the_others_nothing(
    run: Run, tiny_geometry: Path
) -> None:
    run_score(run, settings(tiny_geometry))
    alone = {name: row["value"] for name, row in scores(run).items()}
    for path in run.shard_dir("scores").glob("*.parquet"):
        path.unlink()
    path = run.resolve(run.video_uri("c1"))
    path.write_bytes(path.read_bytes()[:200])
    together = dataclasses.replace(settings(tiny_geometry, batch=5), clips_per_forward=3)
    _, summary = run_score(run, together)
    assert (summary.done, summary.failed) == (CANDIDATES - 1, 1)
    found = scores(run)
    assert (
        run.rows("rejects")["detail"][0].as_py().startswith("media/videos/c1.mp4 cannot be read as a video")
    )
    assert "c1" not in found
    for name in alone.keys() - {"c1"}:
        assert found[name]["value"] == pytest.approx(alone[name], rel=1e-4)


def test_a_missing_backbone_is_named_before_any_work(run: Run, tiny_geometry: Path, tmp_path: Path) -> None:
    lpips = settings(tiny_geometry, perceptual="lpips-alex")
    nowhere = dataclasses.replace(lpips.reward, perceptual_weights=tmp_path / "alex.pth")
    with pytest.raises(RewardError, match=r"LPIPS backbone .*alex\.pth is missing; fetch it with: curl"):
        plan_score(run, dataclasses.replace(lpips, reward=nowhere))


def test_the_worlds_geometry_knows_the_worlds_clips_alone(run: Run, tiny_geometry: Path) -> None:
    rows = [Candidate(**row | {"model": "film"}) for row in run.rows("candidates").to_pylist()]
    own = ScoreSettings(reward=RewardSettings(reward="reprojection", options={"frames": 3}), workers=0)
    plan_score(run, own)  # of the world's own model
    for path in run.shard_dir("candidates").glob("*.parquet"):
        path.unlink()
    write_shard(run.shard_dir("candidates"), "candidates", rows)
    with pytest.raises(UserError, match=r"6 of 6 videos of .* are not of the embedded world.*`any_footage`"):
        run_score(run, own)
    assert not scores(run)
    # Of one prompt they are now; another prompt's are not.
    of_world = prompt("p0", metadata='{"world": {"scene_id": "s", "move": "pan", "seed": 0}}')
    write_shard(run.shard_dir("prompts"), "prompts", [of_world])
    with pytest.raises(UserError, match=r"2 of 6 videos of"):
        plan_score(run, own)
    run_score(run, dataclasses.replace(own, any_footage=True, limit=1))
    models = {row["geometry_model"] for row in scores(run).values()}
    assert all(name.endswith(", on videos that may not be its own") for name in models)
    # A network of one's own is taken at its word, and epipolar geometry needs none.
    plan_score(run, settings(tiny_geometry))
    plan_score(run, ScoreSettings(reward=RewardSettings(reward="epipolar"), workers=0))


def test_a_reward_without_geometry_scores_without_one(run: Run) -> None:
    wanted = ScoreSettings(reward=RewardSettings(reward="epipolar", geometry="vggt", options={"frames": 3}))
    plan, summary = run_score(run, wanted)
    assert plan.geometry is None
    assert summary.done + summary.failed == CANDIDATES
    for row in scores(run).values():
        assert row["geometry_model"] is None
        assert row["image_motion"] > 0
        assert row["coverage"] is None


def test_too_little_memory_names_the_option(
    run: Run, tiny_geometry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("rewards.scoring.ReprojectionReward.score_many", full)
    _, summary = run_score(run, settings(tiny_geometry))
    assert summary.failed == CANDIDATES
    assert summary.reason is not None
    assert "lower --clips-per-forward or --frames" in summary.reason


def test_the_licence_is_told_before_the_work(run: Run, tiny_geometry: Path) -> None:
    from click.testing import CliRunner

    from jobs.main import cli

    words = ["--geometry-model", str(tiny_geometry), "--frames", "3", "--workers", "0", "--json"]
    result = CliRunner().invoke(cli, ["score", str(run.path), *words])
    assert "licence Apache-2.0" in result.stderr
    assert "warning" not in result.stderr
    assert json.loads(result.stdout)["geometry"]["license"] == "Apache-2.0"


def test_two_versions_are_scored_side_by_side_and_one_version_once(run: Run, tiny_geometry: Path) -> None:
    wanted = settings(tiny_geometry)
    version = plan_score(run, wanted).reward_version
    with run.lock(f"score-reprojection-{version}"):
        with pytest.raises(
            UserError, match=rf"another process \(pid \d+\) runs score-reprojection-{version} in"
        ):
            run_score(run, wanted)
        _, beside = run_score(run, settings(tiny_geometry, hole_penalty=0.5))
    assert beside.done == CANDIDATES
    with run.lock_alone("compact"), pytest.raises(UserError, match="another process works in"):
        run_score(run, wanted)


def test_a_geometry_folder_is_the_same_wherever_it_lies(
    run: Run, tiny_geometry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    version = plan_score(run, settings(tiny_geometry)).reward_version
    shutil.copytree(tiny_geometry, tmp_path / "moved" / tiny_geometry.name)
    monkeypatch.chdir(tmp_path / "moved")
    for place in (tmp_path / "moved" / tiny_geometry.name, Path(tiny_geometry.name)):
        assert plan_score(run, settings(place)).reward_version == version
