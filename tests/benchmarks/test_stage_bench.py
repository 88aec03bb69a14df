from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from jobs.bench.scoring import candidates, stages
from jobs.bench.scoring.candidates import (
    ClipSize,
    RandomLpips,
    load_geometry,
    load_perceptual_or_random,
    random_vggt,
    write_clip,
)
from jobs.bench.scoring.stages import REST, WHOLE, StageSettings, measure_stages
from jobs.main import cli
from pipeline.scoring.settings import RewardSettings
from pipeline.world.clips import render_prompt, world_prompts
from rewards.errors import RewardError
from rewards.geometry.reconstruction import Reconstruction
from rewards.options import ReprojectionOptions
from rewards.reprojection import reprojection_error
from storage.errors import UserError
from storage.media.video import read_video
from tests.rewards.vggt_seed import SMALL

CLOUD = ["--frames", 2, "--views", 3, "--height", 20, "--width", 30, "--repetitions", 1]


def bench(*words: object) -> Result:
    return CliRunner().invoke(cli, ["bench", "score", *map(str, [*CLOUD, *words])])


def settings(**options: Any) -> StageSettings:
    return StageSettings(clip=ClipSize(), reward=RewardSettings(options=options))


def rows(table: Any) -> dict[str, tuple[Any, ...]]:
    return {row[0]: row[1:] for row in table.rows}


def test_the_clip_is_the_worlds_and_can_be_stretched(tmp_path: Path) -> None:
    write_clip(tmp_path / "own.mp4", ClipSize())
    frames = torch.from_numpy(read_video(tmp_path / "own.mp4")).float() / 255
    true = render_prompt(world_prompts("test", 1)[0]).frames_THW3
    assert float((frames - true).square().mean()) < 1e-4
    write_clip(tmp_path / "large.mp4", ClipSize(frames=13, height=96, width=144))
    assert read_video(tmp_path / "large.mp4").shape == (13, 96, 144, 3)


@pytest.mark.parametrize("field", ["frames", "height", "width"])
def test_a_clip_that_is_too_small_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} of a clip must be at least"):
        ClipSize(**{field: 1})


def test_every_stage_has_its_share_and_the_rest_fills_the_whole() -> None:
    found = rows(measure_stages(settings(perceptual="ssim"), repetitions=1))
    assert list(found) == [
        "decode",
        "geometry",
        "back-projection",
        "rasteriser (torch)",
        "perceptual (ssim)",
        REST,
        WHOLE,
    ]
    assert found[WHOLE][3] == pytest.approx(100)
    assert sum(row[3] for name, row in found.items() if name != WHOLE) == pytest.approx(100)
    assert all(row[0] > 0 for name, row in found.items() if name != REST)


def test_without_a_perceptual_term_it_has_no_row() -> None:
    found = rows(measure_stages(settings(), repetitions=1))
    assert list(found) == ["decode", "geometry", "back-projection", "rasteriser (torch)", REST, WHOLE]


def test_a_stage_draws_what_the_reward_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    find = stages.find_rasteriser

    def remember(name: str) -> Any:
        def splat(*arguments: Any) -> Any:
            drawing = find(name)(*arguments)
            drawn.append(drawing[0])
            return drawing

        return splat

    monkeypatch.setattr(stages, "find_rasteriser", remember)
    monkeypatch.setattr(stages, "load_geometry", lambda *_: _TrueGeometry())
    measure_stages(settings(views="others"), repetitions=1)
    expected = reprojection_error(_TrueGeometry().reconstruct(_clip()), ReprojectionOptions(views="others"))
    assert expected.images_THW3 is not None
    assert torch.equal(drawn[0], expected.images_THW3)


def _clip() -> torch.Tensor:
    return render_prompt(world_prompts("test", 1)[0]).frames_THW3


class _TrueGeometry:
    """The exact depth and cameras of the clip, and its exact frames."""

    name = model = revision = license = "true"

    def reconstruct(self, _frames_THW3: torch.Tensor) -> Reconstruction:
        clip = render_prompt(world_prompts("test", 1)[0])
        return Reconstruction(**vars(clip), confidence_THW=torch.ones_like(clip.depth_THW))


def test_random_weights_run_and_are_replaced_by_a_wall() -> None:
    backend = random_vggt("cpu", SMALL)
    frames_THW3 = torch.rand(4, 40, 60, 3, generator=torch.Generator().manual_seed(0))
    seen = backend.reconstruct(frames_THW3)
    assert backend.model == "vggt, random weights"
    assert seen.size[1] == SMALL.img_size
    # A still picture slides by a pixel a frame: every frame but for its edges is seen in its neighbour.
    result = reprojection_error(seen, ReprojectionOptions())
    assert result.coverage is not None
    assert result.coverage > 0.9
    still = replace(seen, frames_THW3=torch.stack([seen.frames_THW3[0].roll(t, 1) for t in range(4)]))
    assert reprojection_error(still, ReprojectionOptions(hole_penalty=0)).mse == pytest.approx(0, abs=0.01)


def test_random_weights_exist_for_vggt_alone() -> None:
    with pytest.raises(RewardError, match="geometry 'world' has no random weights; use --geometry vggt"):
        load_geometry("world", "random", None, "cpu")


def test_lpips_without_its_backbone_takes_random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    net = load_perceptual_or_random("lpips-alex", "cpu")
    assert isinstance(net, RandomLpips)
    assert net.name == "lpips-alex, random weights"
    frames = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    assert net(frames, frames).tolist() == [0, 0]
    assert float(net(frames, 1 - frames).min()) > 0
    table = measure_stages(settings(perceptual="lpips-alex"), repetitions=1)
    assert "perceptual (lpips-alex, random weights)" in rows(table)
    with pytest.raises(RewardError, match="perceptual term 'vmaf' does not exist"):
        load_perceptual_or_random("vmaf", "cpu")


def test_a_clip_that_cannot_be_scored_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    black = torch.zeros(9, 64, 64, 3, dtype=torch.uint8).numpy()
    monkeypatch.setattr(stages, "write_clip", lambda path, size: candidates.write_video(path, black, 8))
    with pytest.raises(UserError, match=r"the clip cannot be scored \(frame 0 .*flat colour\): give other"):
        measure_stages(settings(), repetitions=1)


def test_the_command_prints_tables_or_json() -> None:
    shown = bench()
    assert shown.exit_code == 0, shown.output
    for words in ("device cpu", "threads 1", "back-projection", "painter (argsort)", "torch, 1 = 2 threads"):
        assert words in shown.stdout
    read = json.loads(bench("--json", "--perceptual", "none").stdout)
    assert (read["device"], read["threads"]) == ("cpu", 1)
    assert [table["subject"] for table in read["tables"]] == ["stages", "rasterisers", "identity"]
    assert read["tables"][1]["counts"]["points"] == 2 * 20 * 30
    assert all(row["identical"] == "yes" for row in read["tables"][2]["rows"])


def test_drawings_that_differ_fail_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.bench.scoring import rasterisers

    draw = rasterisers.paint_views
    monkeypatch.setattr(rasterisers, "paint_views", lambda *a: (lambda i, d, n: (i, d * 2, n))(*draw(*a)))
    result = bench()
    assert result.exit_code == 1
    assert "error: not the same bit for bit: torch = painter" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "tpu"], "--device must be cpu or cuda, got tpu"),
        (["--geometry-model", "random"], "geometry 'world' has no random weights"),
        (["--geometry", "sfm"], "geometry backend 'sfm' does not exist"),
        (["--reward", "taste"], "reward 'taste' does not exist"),
    ],
)
def test_what_cannot_be_measured_is_named(words: list[str], message: str) -> None:
    result = bench(*words)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (
        "--device cuda asks for a GPU and torch sees none: use --device cpu"
        in bench("--device", "cuda").stderr
    )
