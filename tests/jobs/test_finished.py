"""What is finished says so at once, and the same: no command imports what only work needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs.data.sample import sample_settings
from jobs.settings.presets import load_preset
from pipeline.sampling.prompts import world_items
from pipeline.sampling.world_prompts import prompts_of_world
from storage.run import Run
from storage.tables.records import Prompt
from storage.tables.shards import keep_only, shard_files, write_shard
from tests.jobs.test_cli import imported_by
from tests.jobs.test_old_run import FIXTURE, PAIR, SAMPLE, TRAIN, result_of

HEAVY = {"torch", "ray", "peft", "diffusers", "transformers", "accelerate", "cv2", "av", "scipy"}
COMMANDS: dict[str, list[Any]] = {
    "sample": SAMPLE,
    "score": ["--workers", 0],
    "pair": PAIR,
    "train-dpo": TRAIN,
    "evaluate": ["--num-prompts", 1, "--seeds", 1, "--workers", 0],
    "run": [
        *("--sample", " ".join(map(str, SAMPLE))),
        *("--score", "--workers 0"),
        *("--pair", " ".join(map(str, PAIR))),
    ],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """A run of which every command has done its work, and what each said."""
    run = Path(shutil.copytree(FIXTURE / "run", tmp_path_factory.mktemp("finished") / "run"))
    return run, {name: result_of(name, run, *words) for name, words in COMMANDS.items()}


def contents(run: Path) -> dict[Path, bytes]:
    """Every file but the header, which tells when a command was called."""
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "run.yaml"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_finished_command_imports_nothing_heavy_and_says_the_same(
    name: str, finished: tuple[Path, dict[str, dict[str, Any]]]
) -> None:
    run, said = finished
    words = [name, str(run), *map(str, COMMANDS[name])]
    before = {
        path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "run.yaml"
    }
    assert (
        not imported_by(f"from jobs.main import cli\ncli({words!r}, standalone_mode=False)\nimport sys\n")
        & HEAVY
    )
    again = result_of(name, run, *COMMANDS[name])
    assert again == said[name]
    assert before == {
        path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "run.yaml"
    }


def test_a_training_is_finished_only_whole_and_as_it_was_asked(
    finished: tuple[Path, dict[str, dict[str, Any]]],
) -> None:
    run, said = finished
    adapter = Path(said["train-dpo"]["adapter"])
    weights = (adapter / "pytorch_lora_weights.safetensors").read_bytes()
    for damaged in ("pytorch_lora_weights.safetensors", "adapter.json", "README.md"):
        (adapter / damaged).write_bytes((adapter / damaged).read_bytes()[:-20])
        if damaged == "README.md":
            (adapter / damaged).unlink()
        assert result_of("train-dpo", run, *TRAIN) == said["train-dpo"]
        assert (adapter / "pytorch_lora_weights.safetensors").read_bytes() == weights
        assert json.loads((adapter / "adapter.json").read_text())["training"]["steps"] == 10
        assert (adapter / "README.md").read_text().startswith("---")


def test_prompts_of_the_world_that_a_run_holds_are_those_that_would_be_made(tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(FIXTURE / "run", tmp_path / "run"))
    settings = sample_settings(load_preset("world")["sample"])
    made = [item.record("x") for item in world_items("train", 4)]
    assert [item.record("x") for item in prompts_of_world(settings, run, 4)] == made
    # A first frame that is damaged or another's, and other words under the same metadata, are not taken.
    rows = run.rows("prompts").to_pylist()
    images = sorted(run.resolve(row["image_uri"]) for row in rows)
    images[0].write_bytes(images[0].read_bytes()[:50])
    shutil.copy(images[2], images[1])
    assert [item.record("x") for item in prompts_of_world(settings, run, 4)] == made
    others = [Prompt(**row | {"text": f"As in a film. {row['text']}"}) for row in rows]
    directory = run.shard_dir("prompts")
    old = shard_files(directory)
    keep_only(directory, [write_shard(directory, "prompts", others)])
    assert shard_files(directory) != old
    assert [item.record("x") for item in prompts_of_world(settings, run, 4)] == made


def test_an_import_of_nothing_new_only_looks_at_the_videos(tmp_path: Path) -> None:
    from tests.importing.clips import folder

    source = folder(tmp_path / "videos", prompts=1, seeds=1, first_frames=False)
    words = [str(source), "--preset", "videos", "--workers", "0"]
    assert result_of("import", tmp_path / "run", *words)["done"] == 1
    call = ["import", str(tmp_path / "run"), *words]
    code = f"from jobs.main import cli\ncli({call!r}, standalone_mode=False)\nimport sys\n"
    assert not imported_by(code) & (HEAVY - {"av"})
    assert result_of("import", tmp_path / "run", *words)["present"] == 1
