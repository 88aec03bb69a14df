"""A run is moved, copied, linked and opened by other paths between all of its stages, and nothing is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.sampling.sample import run_sample
from storage.media.tensors import read_tensors
from storage.media.video import read_video
from storage.pairs.dataset import PairDataset
from storage.run import Run
from tests.conftest import write_prompts
from tests.jobs.test_cli import ANY_GAP, geometry_options, gpa, tiny_options
from tests.pipeline.test_sample import settings

pytestmark = pytest.mark.slow


def renamed(run: Path, place: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    return run.rename(place)


def copied(run: Path, place: Path) -> Path:
    """By cp -r, which keeps nothing but contents; the source goes away."""
    place.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-r", str(run), str(place)], check=True)
    shutil.rmtree(run)
    return place


def linked(run: Path, place: Path) -> Path:
    """Moved away, with a link to it where it is used."""
    place.parent.mkdir(parents=True, exist_ok=True)
    run.rename(place.with_name(f"{place.name}-real"))
    place.symlink_to(f"{place.name}-real")
    return place


def back(run: Path, place: Path) -> Path:
    """Out of its link, with a name that needs quoting."""
    place.parent.mkdir(parents=True, exist_ok=True)
    real = run.resolve()
    run.unlink()
    return real.rename(place.with_name(f"{place.name} it's ü"))


MOVES: tuple[Callable[[Path, Path], Path], ...] = (renamed, copied, linked, back, renamed)


def answer(words: list[object]) -> dict[str, Any]:
    result = gpa(*words, "--json")
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def test_a_run_moves_between_all_stages(
    tiny_model: Path, tiny_geometry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = write_prompts(tmp_path / "prompts", 2)
    sample = ["sample", "{run}", *tiny_options(tiny_model, prompts)]
    score = ["score", "{run}", *geometry_options(tiny_geometry)]
    pair = ["pair", "{run}", *ANY_GAP]
    train = [
        "train-dpo",
        "{run}",
        "--model",
        tiny_model,
        "--warmup",
        0,
        "--batch-size",
        2,
        "--schedule",
        "constant",
    ]
    first: list[list[object]] = [sample, score, pair, [*train, "--steps", 1]]
    run = tmp_path / "start" / "run"
    monkeypatch.chdir(tmp_path)
    for stage, words in enumerate(first):
        # By a relative path and by an absolute one in turn.
        where = run.relative_to(tmp_path) if stage % 2 else run
        assert answer([where if word == "{run}" else word for word in words])
        run = MOVES[stage](run, tmp_path / f"place{stage}" / "deep" / "run")
    # Where it lies now, every stage knows what it did, and the training goes on from its checkpoint.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = MOVES[4](run, tmp_path / "elsewhere" / "end")
    here = run.relative_to(tmp_path / "elsewhere")
    for words in (sample, score):
        again = answer([here if word == "{run}" else word for word in words])
        assert (again["done"], again["present"], again["failed"]) == (0, 6, 0)
    assert "(unchanged)" in gpa(*[here if word == "{run}" else word for word in pair]).stdout
    more = answer([here if word == "{run}" else word for word in [*train, "--steps", 2]])
    assert more["steps"] == 2
    logged = (run / "train" / "dpo" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in logged] == [1, 2]
    _everything_is_inside(Run.open(run), tmp_path)


def _everything_is_inside(run: Run, tmp_path: Path) -> None:
    """Every row's files are in the run, and no table or adapter speaks of a place where it lay."""
    for row in run.rows("candidates").to_pylist():
        assert read_video(run.resolve(row["video_uri"])).shape[0] == row["num_frames"]
        assert read_tensors(run.resolve(row["latent_uri"]))
    assert len(PairDataset(run.shard_dir("pairs"))) >= 2
    for table in ("prompts", "candidates", "scores", "pairs"):
        assert str(tmp_path) not in str(run.rows(table).to_pylist()), table
    adapter = run.path / "train" / "dpo" / "adapter"
    assert adapter.is_dir()
    assert str(tmp_path) not in (adapter / "adapter.json").read_text()


def test_a_copy_taken_while_a_command_writes_is_a_run(tiny_model: Path, tmp_path: Path) -> None:
    """Rows first, then what they speak of, as cp and rsync go by the alphabet: candidates before media."""
    prompts = write_prompts(tmp_path / "prompts", 6)
    run = Run.create_or_open(tmp_path / "run")
    wanted = settings(tiny_model, prompts, candidates=4, batch=1)
    sampling = threading.Thread(target=run_sample, args=(run, wanted))
    sampling.start()
    copies = []
    while sampling.is_alive():
        copy = tmp_path / f"copy{len(copies)}"
        subprocess.run(["cp", "-r", str(run.path), str(copy)], check=False, stderr=subprocess.DEVNULL)
        copies.append(copy)
        sampling.join(0.2)
    seen: list[tuple[Path, int]] = []
    for copy in copies:
        if not (copy / "run.yaml").exists():
            continue
        opened = Run.open(copy)
        rows = opened.rows("candidates").to_pylist()
        seen.append((copy, len(rows)))
        for row in rows:
            assert read_video(opened.resolve(row["video_uri"])).shape[0] == row["num_frames"]
            assert read_tensors(opened.resolve(row["latent_uri"]))
    half = [copy for copy, count in seen if 0 < count < 24]
    assert half, seen
    # The copy goes on from where it was taken.
    summary = run_sample(Run.open(half[0]), wanted)
    assert (summary.wanted, summary.failed) == (24, 0)
    assert 0 < summary.present < 24
