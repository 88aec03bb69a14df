"""The cluster examples: accepted by Ray, and run against stand-ins for SLURM, Ray and gpa."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

import jobs
from jobs.main import named_command

FOLDER = Path(jobs.__file__).parent / "cluster"

STANDINS = {
    "scontrol": '[ "$1" = show ] && printf "n1\\nn2\\n"; exit 0',
    # What follows its own options.
    "srun": 'for word; do shift; case "$word" in --*) ;; *) break ;; esac; done; exec "$word" "$@"',
    "hostname": "echo 10.0.0.1 fe80::1",
    "ray": '[ "$1" = start ] && exec sleep 60; exit 0',
    # A real one works until long after both nodes have started.
    "gpa": 'until [ "$(grep -c "^ray start" "${0%/*}/log")" -ge 2 ]; do sleep 0.05; done; '
    '[ "$1" = waits ] || exit 3; trap "exit 143" TERM; sleep 60 & wait',
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    for name, body in STANDINS.items():
        path = tmp_path / name
        path.write_text(f'#!/bin/bash\necho {name} "$@" >> {tmp_path}/log\n{body}\n')
        path.chmod(0o755)
    return os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n[1-2]",
    }


def start(environment: dict[str, str], *words: str, script: str = "slurm.sh") -> subprocess.Popen[bytes]:
    return subprocess.Popen([FOLDER / script, *words], env=environment)


# The tasks of a job: two, each told its place.
SRUN = """for word; do case "$word" in --*) shift ;; *) break ;; esac; done
pids=()
trap 'kill -TERM "${pids[@]}"' TERM
for n in 0 1; do SLURM_PROCID=$n SLURM_LOCALID=$n SLURM_NTASKS=2 "$@" & pids+=("$!"); done
code=0
for one in "${pids[@]}"; do
  while kill -0 "$one" 2>/dev/null; do wait "$one"; code="$?"; done
done
exit "$code"
"""
TRAINS = """echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR:$MASTER_PORT" >> "${0%/*}/places"
[ "$2" = waits ] || exit 3
trap "exit 143" TERM; sleep 60 & wait
"""


@pytest.fixture
def training(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    for name, body in (("srun", SRUN), ("gpa", TRAINS)):
        (tmp_path / name).write_text(f'#!/bin/bash\necho {name} "$@" >> {tmp_path}/log\n{body}')
    return environment


def test_a_training_is_a_task_for_every_gpu_and_its_command_parses(
    training: dict[str, str], tmp_path: Path
) -> None:
    words = ["/shared/runs/one", "--preset", "cogvideox-5b-i2v", "--shard"]
    assert start(training, *words, script="train-slurm.sh").wait(30) == 3
    said = [line.split() for line in log(tmp_path).splitlines()]
    (one, other) = [line[1:] for line in said if line[0] == "gpa"]
    assert one == other == ["train-dpo", *words]
    with named_command("train-dpo").make_context("train-dpo", one[1:]) as context:
        assert context.params["shard"]
    places = sorted((tmp_path / "places").read_text().splitlines())
    assert places == ["0 0 2 n1:20007", "1 1 2 n1:20007"]
    assert "requeue" not in log(tmp_path)


def test_a_preempted_training_is_told_and_queued_again(training: dict[str, str], tmp_path: Path) -> None:
    process = start(training, "waits", script="train-slurm.sh")
    deadline = time.monotonic() + 30
    while log(tmp_path).count("gpa train-dpo waits") < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert "scontrol requeue 7" in log(tmp_path)


def test_a_training_without_a_run_is_refused(training: dict[str, str]) -> None:
    assert start(training, script="train-slurm.sh").wait(30) == 2


def log(tmp_path: Path) -> str:
    return (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""


def test_ray_accepts_the_cluster_and_its_workers_can_all_be_lost() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((FOLDER / "ray-cluster.yaml").read_text())
    validate_config(prepare_config(config))
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}


def test_the_slurm_job_starts_ray_on_every_node_and_ends_as_gpa_does(
    environment: dict[str, str], tmp_path: Path
) -> None:
    assert start(environment, "sample", "RUN", "--workers", "2").wait(30) == 3
    said = log(tmp_path)
    assert "ray start --head --node-ip-address=10.0.0.1 --port=20007 --include-dashboard=false" in said
    assert "ray start --address=10.0.0.1:20007 --block" in said
    assert "gpa sample RUN --workers 2 --ray-address 10.0.0.1:20007 --grace 90" in said
    assert "requeue" not in said


def test_a_preempted_slurm_job_waits_for_gpa_and_is_queued_again(
    environment: dict[str, str], tmp_path: Path
) -> None:
    process = start(environment, "waits")
    deadline = time.monotonic() + 30
    while "gpa waits" not in log(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert "scontrol requeue 7" in log(tmp_path)


def test_a_slurm_job_without_a_command_is_refused(environment: dict[str, str]) -> None:
    assert start(environment).wait(30) == 2
