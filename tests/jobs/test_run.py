"""gpa run gives what the commands give one after the other, and scores while it samples."""

from __future__ import annotations

import json
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from storage.run import Run
from tests.conftest import write_prompts
from tests.jobs.test_cli import geometry_options, gpa, tiny_options
from tests.jobs.test_kill import start

PAIR = ["--min-gap", 0, "--min-motion-ratio", 0, "--max-motion-ratio", "inf", "--min-image-motion", 0]
PAIR += ["--reward", "reprojection", "--min-sharpness", 0, "--min-coverage", 0, "--split", "all"]


def quoted(words: list[Any]) -> str:
    return shlex.join(str(word) for word in words)


def whole(sample: list[Any], score: list[Any], *more: Any) -> list[Any]:
    return ["--sample", quoted([*sample, *more]), "--score", quoted([*score, *more]), "--pair", quoted(PAIR)]


def tables(run: Path) -> dict[str, list[dict[str, Any]]]:
    timings = {"seconds", "created_at"}
    return {
        name: sorted(
            (
                {key: value for key, value in row.items() if key not in timings}
                for row in Run.open(run).rows(name).to_pylist()
            ),
            key=str,
        )
        for name in ("prompts", "candidates", "scores", "pairs", "rejects")
    }


@pytest.fixture
def options(tiny_model: Path, tiny_geometry: Path, prompts_file: Path) -> tuple[list[Any], list[Any]]:
    sample = [*tiny_options(tiny_model, prompts_file), "--batch", 2]
    score = [*geometry_options(tiny_geometry), "--reward", "reprojection", "--batch", 2]
    return sample, [*score, "--clips-per-forward", 2]


def test_the_flow_gives_what_the_commands_give(options: tuple[list[Any], list[Any]], tmp_path: Path) -> None:
    one, other = tmp_path / "flow", tmp_path / "commands"
    assert gpa("sample", other, *options[0]).exit_code == 0
    assert gpa("score", other, *options[1]).exit_code == 0
    assert gpa("pair", other, *PAIR).exit_code == 0
    result = gpa("run", one, *whole(*options), "--json")
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)
    assert (said["sample"]["done"], said["score"]["done"]) == (9, 9)
    assert tables(one) == tables(other)
    assert {path.name for path in (one / "pairs").iterdir()} == {
        path.name for path in (other / "pairs").iterdir()
    }
    again = json.loads(gpa("run", one, *whole(*options), "--json").stdout)
    assert (again["sample"]["done"], again["score"]["done"]) == (0, 0)
    assert again["sample"]["present"] == again["score"]["present"] == again["score"]["wanted"] == 9


def test_a_prompt_is_scored_before_the_last_is_sampled(
    options: tuple[list[Any], list[Any]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert gpa("run", run, *whole(*options)).exit_code == 0
    first_score = min(path.stat().st_mtime_ns for path in (run / "scores").glob("*.parquet"))
    last_sample = max(path.stat().st_mtime_ns for path in (run / "candidates").glob("*.parquet"))
    assert first_score < last_sample


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    for words, message in (
        (["--sample", "--workers 1", "--score", "--workers 0"], "give both 0"),
        (["--score", "--limit 1"], "give limit to sample"),
        (["--sample", "--ray-address a:1", "--score", "--ray-address b:1"], "the same ray_address"),
    ):
        result = gpa("run", tmp_path, *words)
        assert (result.exit_code, message in result.stderr) == (1, True), result.stderr
    assert gpa("run", tmp_path, "--score", "--stepps 1").exit_code == 2


@pytest.mark.slow
def test_a_stopped_flow_continues_on_workers(
    options: tuple[list[Any], list[Any]], tiny_model: Path, tiny_geometry: Path, tmp_path: Path
) -> None:
    prompts = write_prompts(tmp_path / "more", 6)
    sample = [*tiny_options(tiny_model, prompts), "--batch", 1]
    run, words = tmp_path / "run", whole(sample, options[1], "--workers", 1)
    process = start(["run", run, *words])
    deadline = time.monotonic() + 120
    while not list((run / "scores").glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.02)
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said
    held = {name: len(rows) for name, rows in tables(run).items()}
    assert 0 < held["scores"] <= held["candidates"] <= 18
    process = start(["run", run, *words, "--json"])
    out, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert json.loads(out)["sample"]["done"] == 18 - held["candidates"]
    assert json.loads(out)["score"]["done"] == 18 - held["scores"]
