"""Trainings of an ablation as processes: what they see and say, that they end, fail, or are stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from jobs.ablate.processes import environment, last_words, share_of_threads

RECIPES = """
ours: {about: tiny, pair: {min_gap: 0, max_motion_ratio: .inf}}
winners: {extends: ours, train-dpo: {objective: sft}}
diverges: {extends: ours, train-dpo: {lr: 1.0e+30, warmup: 0}}
"""


@pytest.mark.parametrize(
    ("slot", "given", "devices", "seen"),
    [
        (0, {}, 0, None),
        (1, {"CUDA_VISIBLE_DEVICES": ""}, 0, ""),
        (1, {}, 4, "1"),
        (5, {}, 4, "1"),
        (1, {"CUDA_VISIBLE_DEVICES": "3, 6"}, 2, "6"),
        (2, {"CUDA_VISIBLE_DEVICES": "3,6"}, 2, "3"),
        # CUDA sees what is named before the first name that is none.
        (1, {"CUDA_VISIBLE_DEVICES": "3,-1,6"}, 1, "3"),
        (0, {"CUDA_VISIBLE_DEVICES": "GPU-8a,GPU-9b"}, 2, "GPU-8a"),
    ],
)
def test_a_child_sees_one_of_the_devices(
    slot: int, given: dict[str, str], devices: int, seen: str | None
) -> None:
    made = environment(slot, {"HOME": "/home", **given}, devices)
    assert made.pop("CUDA_VISIBLE_DEVICES", None) == seen
    assert made == {"HOME": "/home"}


def test_threads_are_shared_and_never_none() -> None:
    assert [share_of_threads(8, 3), share_of_threads(2, 2), share_of_threads(1, 4)] == [2, 1, 1]


def test_the_last_words_are_three_lines_at_most(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"one\ntwo\n\n three\xff\nfour\n")
    assert last_words(log) == "two; three\ufffd; four"
    log.write_bytes(b"")
    assert last_words(log) == "it said nothing"


def gpa(*words: str) -> list[str]:
    return [sys.executable, "-m", "jobs.main", *words]


def ablate(run: Path, recipes: Sequence[str], *more: str, steps: int = 4) -> list[str]:
    file = run.parent / "mine.yaml"
    file.write_text(RECIPES)
    asked = ",".join(f"{file}:{name}" for name in recipes)
    small = ["--num-prompts", "2", "--seeds", "1", "--workers", "0", "--evaluate", "--judge none"]
    train = ["--train", f"--steps {steps} --warmup 1 --batch-size 2 --checkpoint-every 1000"]
    sample = ["--sample", "--num-prompts 2 --candidates 3 --batch 3 --steps 3"]
    return gpa("ablate", str(run), "--recipes", asked, *small, *train, *sample, *more)


def finished(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=600)


def results(run: Path) -> dict[str, object]:
    return dict(json.loads((run / "ablate" / "results.json").read_text()))


@pytest.mark.slow
@pytest.mark.long(
    reason="three whole ablations and their trainings, a process each; make test has what children see, say "
    "and leave behind here, their order in test_ablate_side_by_side.py, a whole ablation in test_ablate.py"
)
def test_side_by_side_all_end_one_fails_and_a_table_of_few_is_made(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = finished(ablate(run, ["diverges", "ours", "winners"], "--parallel", "2"))
    assert done.returncode == 3, done.stderr
    assert "is not finite at step" in results(run)["failed"]["diverges-0"]  # type: ignore[index]
    assert str(run / "ablate" / "logs" / "diverges-0.txt") in done.stdout
    assert list(results(run)["recipes"]) == ["ours", "winners"]  # type: ignore[call-overload]
    for name in ("ours-0", "winners-0"):
        assert (run / "train" / name / "adapter" / "pytorch_lora_weights.safetensors").is_file()
        assert "adapter after 4 steps" in (run / "ablate" / "logs" / f"{name}.txt").read_text()
        assert json.loads((run / "train" / name / "config.json").read_text())["threads"] == 1
    assert "adapter after 4 steps" not in done.stderr
    assert "--parallel 2" in str(results(run)["made_by"])

    few = finished(ablate(run, ["winners"], "--only"))
    assert few.returncode == 0, few.stderr
    assert list(results(run)["recipes"]) == ["winners"]  # type: ignore[call-overload]
    assert "ours" not in str(results(run)["made_by"])
    assert str(results(run)["made_by"]).endswith(" --only")
    assert "ours" not in few.stdout
    every = finished(ablate(run, ["winners"]))
    assert every.returncode == 0, every.stderr
    assert list(results(run)["recipes"]) == ["winners", "ours"]  # type: ignore[call-overload]


def wait_until(there: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while not there():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def both_train(run: Path) -> bool:
    logs = [run / "train" / name / "metrics.jsonl" for name in ("ours-0", "winners-0")]
    return all(log.is_file() and log.stat().st_size for log in logs)


@pytest.mark.slow
@pytest.mark.long(
    reason="two whole ablations, of two trainings of 40 steps side by side; make test stops children of a "
    "parent here, and a training that writes its checkpoint in trainer/test_resume.py"
)
def test_stopped_by_a_signal_the_children_write_checkpoints_and_the_same_command_finishes(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    words = ablate(run, ["ours", "winners"], "--parallel", "2", steps=40)
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: both_train(run), process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not any(child.is_running() for child in children)
    steps = {name: checkpointed(run / "train" / name) for name in ("ours-0", "winners-0")}
    again = finished(words)
    assert again.returncode == 0, again.stderr
    assert list(results(run)["recipes"]) == ["ours", "winners"]  # type: ignore[call-overload]
    for name, step in steps.items():
        log = (run / "ablate" / "logs" / f"{name}.txt").read_text()
        assert f"train-dpo: {step} of 40 steps are there" in log


def checkpointed(folder: Path) -> int:
    """The step of the only checkpoint: that which the signal asked for."""
    (found,) = (folder / "checkpoints").glob("step-*")
    step = int(found.name.removeprefix("step-"))
    assert 0 < step < 40
    return step


PARENT = """
import os, sys, time
from pathlib import Path
from jobs.ablate.processes import Children
os.chdir(sys.argv[1])
with Children(1, time.monotonic, print) as children:
    children.start("one", [], Path("log.txt"))
    children.next()
"""
# In place of jobs.main: says when it runs, and which signals it gets.
CHILD = """
import signal, sys, time
from pathlib import Path

def stop(*_):
    time.sleep(0.5)
    Path("stopped").touch()
    sys.exit(143)

signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, lambda *_: Path("interrupted").touch())
Path("started").touch()
time.sleep(300)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_child_outlives_its_parent_and_ctrl_c_comes_once(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "__init__.py").touch()
    (tmp_path / "jobs" / "main.py").write_text(CHILD)
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path], stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_until((tmp_path / "started").exists, process)
    (child,) = psutil.Process(process.pid).children()
    # As a terminal does: to all of the group.
    os.killpg(process.pid, number)
    process.wait(240)
    if number == signal.SIGINT:
        assert (tmp_path / "stopped").exists(), "the parent waited"
    child.wait(240)
    assert (tmp_path / "stopped").exists()
    assert not (tmp_path / "interrupted").exists()
