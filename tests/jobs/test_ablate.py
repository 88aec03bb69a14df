"""gpa ablate as a user types it, on the embedded world in a form too small for an effect."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.main import cli

RECIPES = """
ours: {about: tiny, pair: {min_gap: 0, max_motion_ratio: .inf}}
winners: {extends: ours, train-dpo: {objective: sft}}
none-left: {extends: ours, pair: {min_gap: 10}}
"""


def gpa(*words: str) -> list[str]:
    return [sys.executable, "-m", "jobs.main", *words]


def ablate(run: Path, *more: str) -> list[str]:
    file = run.parent / "mine.yaml"
    file.write_text(RECIPES)
    recipes = ",".join(f"{file}:{name}" for name in ("ours", "winners", "none-left"))
    small = ["--num-prompts", "2", "--seeds", "1", "--workers", "0", "--evaluate", "--judge none"]
    train = ["--train", "--steps 4 --warmup 1 --batch-size 2 --checkpoint-every 1 --threads 1"]
    sample = ["--sample", "--num-prompts 2 --candidates 3 --batch 3 --steps 3"]
    return gpa("ablate", str(run), "--recipes", recipes, *small, *train, *sample, *more)


def finished(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=600)


def figures(run: Path) -> object:
    found = json.loads((run / "ablate" / "results.json").read_text())
    return found["recipes"], found["against"], [one["figures"] for one in found["trainings"]]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An ablation that nothing disturbed, and what it printed."""
    run = tmp_path_factory.mktemp("ablate") / "straight"
    done = finished(ablate(run))
    assert done.returncode == 3, done.stderr
    return run, done.stdout


@pytest.mark.slow
def test_a_recipe_without_pairs_fails_alone_and_the_same_command_changes_nothing(
    straight: tuple[Path, str],
) -> None:
    run, printed = straight
    assert "failed: none-left-0, no pair" in printed
    assert "winners" in printed
    before = {path: path.read_bytes() for path in (run / "ablate").glob("results.*")}
    assert len(before) == 3
    finished(ablate(run))
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
@pytest.mark.long(
    reason="an ablation that is stopped and one that finishes it; make test stops a training, a flow and an "
    "evaluation each for itself, and has an ablation that finds everything done"
)
def test_stopped_and_begun_again_it_gives_the_same_table(straight: tuple[Path, str], tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    process = subprocess.Popen(ablate(stopped), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list((stopped / "train").glob("winners-0/checkpoints/step-*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not (stopped / "ablate" / "results.json").exists()
    again = finished(ablate(stopped))
    assert again.returncode == 3, again.stderr
    assert "16 to do" not in again.stderr
    assert figures(stopped) == figures(straight[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipes", "best,nothing"], "recipe 'nothing' does not exist"),
        (["--recipes", "sft,sft"], "must name recipes once"),
        (["--train", "--stepps 4"], "--train '--stepps 4': No such option"),
        (["--evaluate", "--judge nobody"], "judge 'nobody' does not exist"),
        (["--evaluate", "--judge none --num-prompts 0"], "--num-prompts must be at least 1, got 0"),
        (["--preset", "nothing"], "preset 'nothing' does not exist; choose one of"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(words: list[str], message: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["ablate", str(tmp_path / "run"), *words])
    assert done.exit_code in (1, 2), done.output
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


def test_it_lists_the_recipes_and_foretells_a_run_that_is_not_there(tmp_path: Path) -> None:
    listed = CliRunner().invoke(cli, ["ablate", "--list"])
    assert listed.exit_code == 0, listed.output
    assert listed.stdout.splitlines()[0].split()[0] == "best"
    small = ["--num-prompts", "2", "--seeds", "1", "--evaluate", "--judge none"]
    told = CliRunner().invoke(cli, ["ablate", str(tmp_path / "run"), *small, "--dry-run", "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["sample"]["missing"] == 960
    assert not (tmp_path / "run").exists()
