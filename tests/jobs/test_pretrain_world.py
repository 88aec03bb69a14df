"""gpa pretrain-world makes loadable checkpoints and resumes; gpa bench world measures them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from jobs.bench import command as bench
from jobs.bench import reward as bench_reward
from jobs.bench.world import held_out as figures
from jobs.main import cli
from jobs.progress import sparkline
from jobs.world import pretrain as pretrain_world
from pipeline.models import resolve_model
from pipeline.world.referee import Referee
from pipeline.world.training import common, pretrain
from rewards.geometry.backends import describe_backend
from rewards.geometry.backends import load_backend as load_geometry
from rewards.geometry.world.backend import load_backend
from rewards.geometry.world.network import WorldGeometry

JUDGE_AND_OWN = ("geometry-judge", "geometry")
TINY = [
    *("--generator-steps", "2", "--generator-clips", "2", "--generator-batch", "1"),
    *("--geometry-steps", "1", "--judge-steps", "1", "--referee-steps", "1", "--bank-clips", "2"),
    *("--boxes-steps", "2", "--boxes-referee-steps", "1"),
]


def gpa(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "CURVE_EVERY", 1)
        result = gpa("pretrain-world", "--work", folder / "work", "--out", folder / "out", *TINY)
    assert result.exit_code == 0, result.output
    return folder, result


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_every_checkpoint_loads(trained: tuple[Path, Result]) -> None:
    out = trained[0] / "out"
    assert sorted(path.name for path in out.iterdir()) == sorted(pretrain_world.MODELS)
    assert resolve_model(str(out / "generator")).family == "CogVideoXImageToVideoPipeline"
    assert load_backend(model=str(out / "geometry"), revision=None, device="cpu").name == "world"
    assert not Referee.from_pretrained(out / "referee").training
    assert {Path(name).suffix for name in files(out)} == {".json", ".safetensors"}
    for model in pretrain_world.MODELS:
        assert sum(len(content) for content in files(out / model).values()) < 15e6


def test_the_judge_is_another_network_from_other_clips(trained: tuple[Path, Result]) -> None:
    folder = trained[0]
    judge, own = (WorldGeometry.from_pretrained(folder / "out" / name) for name in JUDGE_AND_OWN)
    assert judge.config != own.config
    banks = [load_file(path)["frames_NTHW3"] for path in sorted((folder / "work").glob("bank-train-2*"))]
    assert len(banks) == 2
    assert not any(torch.equal(one, other) for one in banks[0] for other in banks[1])
    backend = load_geometry(
        "world-judge", model=str(folder / "out" / "geometry-judge"), revision=None, device="cpu"
    )
    assert backend.name == "world-judge"


def test_the_shipped_judge_is_not_the_shipped_geometry() -> None:
    own, judge = (describe_backend(name, model=None, revision=None) for name in ("world", "world-judge"))
    assert own.revision != judge.revision
    assert (judge.name, judge.model) == ("world-judge", "geometry-judge")


def test_curves_are_printed_and_progress_goes_to_stderr(trained: tuple[Path, Result]) -> None:
    folder, result = trained
    assert "generator" in result.stdout
    assert "loss" in result.stdout
    assert f"checkpoints: {folder / 'out'}" in result.stdout
    assert "generator: 2 of 2, loss" in result.stderr
    assert "generator: 2 of 2" not in result.stdout


def test_the_same_command_again_trains_nothing_and_changes_nothing(trained: tuple[Path, Result]) -> None:
    folder = trained[0]
    before = files(folder / "out")
    again = gpa("pretrain-world", "--work", folder / "work", "--out", folder / "out", "--json", *TINY)
    assert again.exit_code == 0, again.output
    assert files(folder / "out") == before
    assert len(json.loads(again.stdout)["generator"]["loss"]) == 2
    assert "generator: 1 of 2" not in again.stderr


def test_a_training_goes_on_only_with_its_own_settings(trained: tuple[Path, Result]) -> None:
    folder = trained[0]
    words = ("--only", "referee", "--seed", "5", "--work", folder / "work", "--out", folder / "out")
    other = gpa("pretrain-world", *TINY, *words)
    assert other.exit_code == 1
    assert "a referee training with --seed 0, not 5" in other.stderr
    assert "--work" in other.stderr


def test_bench_measures_the_checkpoints(trained: tuple[Path, Result]) -> None:
    sizes = ("--clips", "1", "--prompts", "2", "--seeds", "2", "--steps", "2", "--json")
    result = gpa("bench", "world", "--checkpoints", trained[0] / "out", *sizes)
    assert result.exit_code == 0, result.output
    tables = json.loads(result.stdout)
    assert {table["subject"] for table in tables} == set(bench.SUBJECTS)
    codec = next(table for table in tables if table["subject"] == "codec")
    # Its PCA was fitted in earnest, and motion needs no training.
    assert codec["rows"][0]["frame"] == "mean"
    assert codec["rows"][0]["psnr"] > 25
    assert codec["counts"] == {"clips": 1}
    titles = [table["title"].split(":")[0] for table in tables if table["subject"] == "geometry"]
    assert titles == ["Geometry", "Geometry of the judge"]


def test_bench_reward_compares_rewards_and_draws(trained: tuple[Path, Result], tmp_path: Path) -> None:
    sizes = ("--clips", "1", "--prompts", "1", "--seeds", "2", "--steps", "1")
    words = ("--checkpoints", trained[0] / "out", "--plot", tmp_path / "study.png", "--json")
    result = gpa("bench", "reward", *sizes, *words)
    assert result.exit_code == 0, result.output
    tables = json.loads(result.stdout)
    assert {table["subject"] for table in tables} == {"faults", "ranking"}
    detail = next(table for table in tables if table["title"] == "Rewards at every strength")
    named = {(row["corruption"], row["strength"]) for row in detail["rows"]}
    assert {("frozen", 1.0), ("blur", 2.0), ("warp", 3.0), ("moving_boxes", 0.3)} <= named
    assert {row["geometry"] for row in detail["rows"]} == {"predicted", "true"}
    guarded = next(table for table in tables if table["title"].startswith("Guards"))
    assert {row["clips"]: row["rejected"] for row in guarded["rows"]}["frozen@1"] == 1
    ranked = [table["title"].split(" (")[0] for table in tables if table["subject"] == "ranking"]
    assert ranked == ["Ranking of samples with faults of warp", "Ranking of samples with faults of boxes"]
    assert (tmp_path / "study.png").stat().st_size > 1000


def test_bench_prints_tables_and_says_what_is_missing(trained: tuple[Path, Result], tmp_path: Path) -> None:
    shown = gpa("bench", "world", "--checkpoints", trained[0] / "out", "--only", "codec", "--clips", "1")
    assert "Codec: PSNR in dB" in shown.stdout
    assert "(1 clips)" in shown.stdout
    missing = gpa("bench", "world", "--checkpoints", tmp_path, "--only", "geometry")
    assert missing.exit_code == 1
    assert missing.stderr.startswith(f"error: {tmp_path / 'geometry'} holds no geometry checkpoint")


def test_the_commands_name_what_the_pipeline_has() -> None:
    assert set(pretrain_world.MODELS) == set(pretrain.TRAININGS)
    assert (*bench.SUBJECTS, *bench_reward.SUBJECTS) == tuple(figures.SUBJECTS)
    defaults = pretrain.PretrainSettings()
    options = {option.name: option.default for option in pretrain_world.command.params}
    assert {name: options[name] for name in vars(defaults)} == vars(defaults)


def test_sparkline_falls_with_its_values() -> None:
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1]) == "█▇▆▅▄▃▂▁"
    assert sparkline([1, 1, 3, 3], width=2) == "▁█"
    assert sparkline([2, 2]) == "▁▁"
    with pytest.raises(ValueError, match="at least one number"):
        sparkline([])
