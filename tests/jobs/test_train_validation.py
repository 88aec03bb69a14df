"""gpa train-dpo with held-out pairs, sampled videos and a model card, from prompts on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard

from storage.media.pictures import write_image
from storage.run import Run
from storage.tables.ids import split_of
from storage.trained_on import trained_on
from tests.jobs.test_cli import ANY_GAP, geometry_options, gpa, tiny_options
from trainer.saving.metrics import read_log

SHORT = ("--steps", 3, "--warmup", 0, "--batch-size", 2, "--threads", 1, "--json")


@pytest.fixture(scope="module")
def paired(
    tiny_model: Path, tiny_geometry: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A run with pairs of two prompts to train on and two held out, and its model."""
    folder = tmp_path_factory.mktemp("validated")
    generator = np.random.default_rng(0)
    lines = []
    for split in ("train", "val"):
        scenes = [name for number in range(200) if split_of(name := f"scene-{number}") == split][:2]
        for scene in scenes:
            write_image(folder / f"{scene}.png", generator.integers(0, 256, (24, 40, 3), dtype=np.uint8))
            prompt = {"text": f"a quiet hall {scene}", "image": f"{scene}.png", "scene_id": scene}
            lines.append(json.dumps(prompt))
    prompts = folder / "prompts.jsonl"
    prompts.write_text("\n".join(lines))
    run = folder / "run"
    for words in (
        ["sample", run, *tiny_options(tiny_model, prompts)],
        ["score", run, *geometry_options(tiny_geometry)],
        ["pair", run, *ANY_GAP, "--split", "all"],
    ):
        done = gpa(*words)
        assert done.exit_code == 0, done.output
    prompts.unlink()
    return run, tiny_model


def train(run: Path, model: Path, *words: object) -> tuple[Path, dict[str, Any]]:
    done = gpa("train-dpo", run, "--model", model, *SHORT, *words)
    assert done.exit_code == 0, done.output
    adapter = Path(json.loads(done.stdout)["adapter"])
    return adapter, json.loads(done.stdout)["metrics"]


def test_held_out_figures_stand_in_the_log_the_result_and_the_card(paired: tuple[Path, Path]) -> None:
    run, model = paired
    watch = ("--validate-every", 2, "--validate-pairs", 3, "--sample-every", 3, "--sample-prompts", 1)
    watched, metrics = train(run, model, "--name", "watched", *watch)
    blind, _ = train(run, model, "--name", "blind")
    assert {"val/loss", "val/accuracy", "val/motion_ratio", "val/sharpness_ratio"} <= metrics.keys()
    lines = read_log(watched.parent)
    assert [line["step"] for line in lines if "val/loss" in line] == [2, 3]
    assert [line["loss"] for line in lines] == [line["loss"] for line in read_log(blind.parent)]
    weights = "pytorch_lora_weights.safetensors"
    assert (watched / weights).read_bytes() == (blind / weights).read_bytes()
    samples = Run.open(watched.parent / "samples").rows("candidates").to_pylist()
    assert sorted(row["adapter"] is None for row in samples) == [False, True]
    recorded = Run.open(run).header()["commands"]["train-dpo watched"]["config"]
    assert (recorded["validate_every"], recorded["sample_prompts"]) == (2, 1)

    card = ModelCard.load(watched / "README.md")
    text = " ".join(card.text.split())
    held = Run.open(run).rows("pairs").to_pylist()
    trained = [row for row in held if row["split"] == "train"]
    assert f"{len(trained)} pairs of 2 prompts in 2 scenes, split `train`" in text
    assert f"{len(held) - len(trained)} val" in text
    score = Run.open(run).rows("scores").to_pylist()[0]
    assert f"`{score['reward']}` version `{score['reward_version']}`" in text
    assert f"| {score['geometry_model']} | {score['geometry_revision']} |" in text
    assert "| val/motion_ratio |" in text

    told = trained_on(watched)
    assert told is not None
    assert (told.pairs, told.prompts, told.first_frames, told.complete) == (len(trained), 2, 2, True)
    scenes = {row["scene_id"]: row["split"] for row in held}
    known = {one: told.knows(prompt_id="", scene_id=one, content="") for one in scenes}
    assert known == {one: "scene" if split == "train" else None for one, split in scenes.items()}


def test_without_held_out_pairs_it_ends_before_the_first_step(paired: tuple[Path, Path]) -> None:
    run, model = paired
    words = ("--validate-every", 1, "--validate-split", "test", "--name", "none")
    done = gpa("train-dpo", run, "--model", model, *SHORT, *words)
    assert done.exit_code == 1
    assert "no pairs of split 'test'" in done.stderr
    assert "gpa pair --split all" in done.stderr
    assert done.stderr.count("\n") == 1
    words = ("--sample-every", 1, "--validate-split", "test", "--name", "none")
    done = gpa("train-dpo", run, "--model", model, *SHORT, *words)
    assert done.exit_code == 1
    assert "has no prompts of split test" in done.stderr
    assert not (run / "train" / "none" / "metrics.jsonl").exists()
