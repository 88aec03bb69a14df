"""Several processes under a launcher compute what one process with the whole batch computes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.trainer.tiny_training import train_tiny
from trainer.saving.metrics import read_log

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("tiny_training.py")
OPTIONS: dict[str, Any] = {
    "steps": 4,
    "warmup": 1,
    "lr": 1e-2,
    "checkpoint_every": 2,
    "validate_every": 2,
    "sample_every": 3,
}


# What is left of the order of additions in float64: tiny_training says why.
ROUNDING = 1e-9


def launch_two(model: Path, out: Path, options: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """The tiny training in two processes, as a user starts it."""
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--num_machines", "1"]
    many = ["--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    command = [*launcher, *many, "--mixed_precision", "no", "--dynamo_backend", "no", str(PROGRAM)]
    return subprocess.run(
        [*command, str(model), str(out), json.dumps(OPTIONS | options)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def losses(out: Path, name: str = "loss") -> list[float]:
    return [line[name] for line in read_log(out) if name in line]


def test_a_training_goes_on_divided_in_another_way(model_dir: Path, tmp_path: Path) -> None:
    options = OPTIONS | {"schedule": "constant", "cache_reference": 2, "sample_every": 0}
    train_tiny(model_dir, tmp_path / "whole", options | {"batch_size": 4})
    train_tiny(model_dir, tmp_path / "halves", options | {"batch_size": 4, "steps": 2})
    shutil.copytree(tmp_path / "halves", tmp_path / "two")
    train_tiny(model_dir, tmp_path / "halves", options | {"batch_size": 2, "grad_accum": 2})
    two = launch_two(model_dir, tmp_path / "two", options | {"batch_size": 2})
    assert two.returncode == 0, two.stderr
    # Six pairs of two draws: every process takes its half from the file of the one before.
    assert "6 of 6 errors of the reference are those that another number of processes computed" in two.stderr
    for out in ("halves", "two"):
        for name in ("loss", "grad_norm", "lr", "val/loss"):
            found, expected = (losses(tmp_path / one, name) for one in (out, "whole"))
            assert found == pytest.approx(expected, abs=ROUNDING)
            assert len(found) == (2 if name == "val/loss" else 4)


@pytest.mark.parametrize(
    "options",
    [
        {"forward": "apart", "grad_accum": 2},
        {"shard": True, "cache_reference": 3, "forward": "apart", "grad_accum": 2},
    ],
)
def test_two_processes_are_one_with_twice_the_batch(
    options: dict[str, Any], model_dir: Path, tmp_path: Path
) -> None:
    # What is measured against is a frozen copy, whole or in parts.
    train_tiny(model_dir, tmp_path / "first", {"steps": 2, "warmup": 0, "lr": 1e-2, "batch_size": 2})
    options = options | {"from_adapter": str(tmp_path / "first")}
    alone = {name: value for name, value in options.items() if name != "shard"}
    train_tiny(model_dir, tmp_path / "one", OPTIONS | {"batch_size": 4, **alone})
    two = launch_two(model_dir, tmp_path / "two", {"batch_size": 2, **options})
    assert two.returncode == 0, two.stderr
    # The micro-batches of two processes hold the same pairs in another order than those of one.
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=ROUNDING)
    assert len(losses(tmp_path / "two")) == 4
    for name in ("val/loss", "val/margin"):
        assert losses(tmp_path / "two", name) == pytest.approx(losses(tmp_path / "one", name), abs=ROUNDING)
        assert len(losses(tmp_path / "two", name)) == 2
    assert losses(tmp_path / "two", "val/motion_ratio") == [1.0, 1.0]
    name = "adapter/pytorch_lora_weights.safetensors"
    one_lora, shared = (load_file(tmp_path / out / name) for out in ("one", "two"))
    assert one_lora.keys() == shared.keys()
    assert max(float((one_lora[key] - shared[key]).abs().max()) for key in one_lora) < ROUNDING
