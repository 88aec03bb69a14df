from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from jobs.data.score import score_settings
from jobs.doctor import machine
from jobs.doctor.finding import Finding, Needs
from jobs.main import cli
from rewards.rasterise import pytorch3d
from rewards.rasterise.pytorch3d import Build
from storage.run import Run
from tests.jobs.test_cli import gpa


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any import of PyTorch3D fails."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "pytorch3d"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pytorch3d", None)


@pytest.fixture
def broken(no_library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel is there, and torch is another than it was built for."""
    build = Build(distribution="easypytorch3d 0.7.9.post1", cuda="13")
    monkeypatch.setattr(pytorch3d, "find_build", lambda: build)
    monkeypatch.setattr(torch, "__version__", "2.14.0")


def found() -> dict[str, Finding]:
    return {finding.name: finding for finding in machine.rasterisers(Needs(rasterisers=("auto",)))}


@pytest.mark.usefixtures("no_library")
def test_a_missing_rasteriser_is_told_before_the_run_is_opened(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["score", str(tmp_path / "no-run"), "--rasteriser", "pytorch3d"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: rasteriser 'pytorch3d': PyTorch3D is not installed beside torch ")
    assert "INSTALL.md" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("broken")
def test_a_wheel_for_another_torch_is_one_line_of_gpa_score(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["score", str(tmp_path / "no-run"), "--rasteriser", "pytorch3d"])
    assert result.exit_code == 1
    assert "easypytorch3d 0.7.9.post1 cannot be imported under torch 2.14.0 (" in result.stderr
    assert "the pair that works is easypytorch3d 0.7.9.post1 with torch 2.12.1: " in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("broken")
def test_doctor_names_both_versions_and_the_pair_that_works() -> None:
    line = found()["rasteriser pytorch3d"]
    assert (line.state, line.required, line.remedy) == ("problem", False, pytorch3d.REMEDY)
    assert line.detail.startswith("easypytorch3d 0.7.9.post1 cannot be imported under torch 2.14.0 (")
    assert line.detail.endswith("; the pair that works is easypytorch3d 0.7.9.post1 with torch 2.12.1")
    assert found()["rasteriser auto"].state == "ok"


@pytest.mark.usefixtures("no_library")
def test_doctor_says_that_none_is_installed() -> None:
    line = found()["rasteriser pytorch3d"]
    assert (line.state, line.breaks) == ("missing", False)
    assert line.detail.startswith("PyTorch3D is not installed beside torch ")


def test_doctor_says_which_build_is_here_and_what_auto_is() -> None:
    build = pytorch3d.find_build()
    if build is None:
        pytest.skip("PyTorch3D is not installed: make installs it, or the extra [pytorch3d]")
    lines = found()
    line = lines["rasteriser pytorch3d"]
    assert line.state == "ok"
    assert line.detail.endswith(f"; {build}, with torch {torch.__version__}")
    assert lines["rasteriser auto"].detail.startswith("torch (measured ")


def test_a_rasteriser_that_draws_nothing_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_draws", lambda name, device: False)
    line = found()["rasteriser torch"]
    assert line.breaks
    assert line.detail == "draws nothing where a point lies on cpu"


def test_the_option_reaches_the_reward() -> None:
    chosen = {"reward": "reprojection", "geometry": "world", "rasteriser": "auto"}
    settings = score_settings(chosen).reward
    assert settings.options == {"rasteriser": "auto"}
    asked = score_settings(chosen | {"rasteriser": "torch"}).reward
    assert settings.describe() == asked.describe()
    cpu, gpu = settings.rasteriser("cpu"), settings.rasteriser("cuda")
    assert cpu is not None
    assert gpu is not None
    assert cpu.reason.startswith("measured ")
    assert gpu.reason.startswith("built in; not measured")
    named = asked.rasteriser("cpu")
    assert named is not None
    assert (named.name, named.reason) == ("torch", "as asked")
    assert score_settings({"reward": "epipolar", "geometry": "world"}).reward.rasteriser("cpu") is None


def test_what_auto_took_is_said_once_and_recorded(tmp_path: Path) -> None:
    path = tmp_path / "run"
    size = ["--num-prompts", 1, "--candidates", 2, "--steps", 2, "--workers", 0]
    assert gpa("sample", path, *size).exit_code == 0
    asked = gpa("score", path, "--workers", 0, "--dry-run", "--json")
    assert json.loads(asked.stdout)["rasteriser"] == "torch"
    assert "\nrasteriser: torch (measured " in gpa("score", path, "--workers", 0, "--dry-run").stdout
    done = gpa("score", path, "--workers", 0)
    assert done.exit_code == 0, done.stderr
    assert done.stderr.count("rasteriser: torch (measured ") == 1
    config = Run.open(path).header()["commands"]["score"]["config"]
    assert (config["rasteriser"], config["drawn_by"]) == ("auto", "torch")
    again = gpa("score", path, "--workers", 0, "--rasteriser", "torch", "--json")
    assert json.loads(again.stdout)["present"] == 2
    assert "rasteriser: " not in again.stderr
