"""Commands that are killed: run again, they finish the work, and every row exists once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from storage.media.tensors import read_tensors
from storage.media.video import read_video, write_video
from storage.run import Run
from storage.tables.shards import write_shard
from tests.conftest import write_prompts
from tests.jobs.test_cli import geometry_options, tiny_options
from tests.storage.builders import candidate, prompt, run_with_pairs

KILLS = 5
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow
FIVE_KILLS = pytest.mark.long(
    reason="six starts of a command that loads torch or DuckDB; make test kills gpa sample once, commands "
    "of test_faults.py and a training, and stops a run at every write (pipeline/test_stopped_anywhere.py)"
)


def start(words: list[object]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.main", *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*.*")) if folder.exists() else set()


def wait_for_a_new_file(process: subprocess.Popen[str], folder: Path, before: set[Path]) -> None:
    """Wait until the command has begun to write, or has ended."""
    deadline = time.monotonic() + 300
    while process.poll() is None and not files(folder) - before:
        assert time.monotonic() < deadline, "the command wrote nothing"
        time.sleep(0.005)


def kill_often(commands: list[list[object]], folder: Path, seed: int) -> int:
    """Run each command and kill it at a random moment of its work; count the kills that hit."""
    moments = random.Random(seed)
    hit = 0
    for words in commands:
        process = start(words)
        wait_for_a_new_file(process, folder, files(folder))
        time.sleep(moments.random() * 0.5)
        process.kill()
        process.communicate()
        hit += process.returncode == -signal.SIGKILL
    return hit


def finish(words: list[object]) -> subprocess.CompletedProcess[str]:
    process = start(words)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def rows_in_files(directory: Path, column: str) -> list[str]:
    """The ids that the shards themselves hold, so that a double would show."""
    return [name for path in directory.glob("*.parquet") for name in pq.read_table(path)[column].to_pylist()]


@pytest.mark.parametrize(
    ("number", "kills", "hits"), [(8, 1, 1), pytest.param(15, KILLS, 2, marks=FIVE_KILLS)]
)
def test_sample_survives_kills(number: int, kills: int, hits: int, tiny_model: Path, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts", number)
    run = tmp_path / "run"
    command: list[object] = ["sample", run, *tiny_options(tiny_model, prompts), "--batch", 1, "--steps", 6]
    commands = [command] * kills
    if kills > 1:
        # Once with actors, which the kill of their driver leaves alone for a moment.
        commands[0] = [*command, "--workers", 2]
    assert kill_often(commands, run / "media" / "latents", seed=1) >= hits
    finish(command)
    ids = rows_in_files(run / "candidates", "candidate_id")
    assert len(ids) == len(set(ids)) == 3 * number
    for row in (opened := Run.open(run)).rows("candidates").to_pylist():
        assert read_video(opened.resolve(row["video_uri"])).shape == (9, 32, 32, 3)
        assert read_tensors(opened.resolve(row["latent_uri"]))["latents"].shape == (3, 4, 4, 4)


@FIVE_KILLS
def test_score_survives_five_kills(tiny_geometry: Path, tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "run")
    made = [candidate(f"c{number}", "p0") for number in range(60)]
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    for one in made:
        write_video(run.resolve(run.video_uri(one.candidate_id)), frames, 8)
    write_shard(run.shard_dir("prompts"), "prompts", [prompt("p0")])
    write_shard(run.shard_dir("candidates"), "candidates", made)
    command: list[object] = ["score", run.path, *geometry_options(tiny_geometry), "--batch", 1]
    assert kill_often([command] * KILLS, run.shard_dir("scores"), seed=2) >= 2
    finish(command)
    ids = rows_in_files(run.shard_dir("scores"), "candidate_id")
    assert len(ids) == len(set(ids)) == 60


@FIVE_KILLS
def test_pair_survives_five_kills(tmp_path: Path) -> None:
    run = run_with_pairs(tmp_path / "run", prompts=900)
    measured = ["--min-image-motion", 0, "--min-sharpness", 0, "--min-coverage", 0]
    command: list[object] = ["pair", run.path, "--split", "all", "--reward", "reprojection", *measured]
    kill_often([command] * KILLS, run.shard_dir("pairs"), seed=3)
    finish(command)
    ids = rows_in_files(run.shard_dir("pairs"), "pair_id")
    assert len(ids) == len(set(ids)) == 900


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.fixture
def running_sample(tiny_model: Path, tmp_path: Path) -> tuple[list[object], Path]:
    prompts = write_prompts(tmp_path / "prompts", 10)
    run = tmp_path / "run"
    return ["sample", run, *tiny_options(tiny_model, prompts), "--batch", 1, "--steps", 6], run


WITH_RAY = pytest.mark.long(
    reason="two starts of gpa sample and one of Ray; make test sends SIGTERM to a gpa run on workers "
    "(jobs/test_run.py), to the Ray runner (pipeline/test_runners.py), and SIGINT to gpa sample here"
)


@pytest.mark.parametrize(
    ("number", "workers"), [pytest.param(signal.SIGTERM, 1, marks=WITH_RAY), (signal.SIGINT, 0)]
)
def test_a_signal_ends_sample_cleanly_and_the_same_command_continues(
    running_sample: tuple[list[object], Path], number: signal.Signals, workers: int
) -> None:
    command, run = running_sample
    process = start([*command, "--workers", workers])
    wait_for_a_new_file(process, run / "media" / "latents", set())
    children = descendants(process)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    assert err.splitlines()[-1] == f"stopped by {number.name}; the same command continues"
    assert "Traceback" not in err
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]
    finish(command)
    assert Run.open(run).rows("candidates").num_rows == 30
