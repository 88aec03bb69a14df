"""Videos of base and adapter during a training: what is sampled, and how they are compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.sampling import during_training as module
from pipeline.sampling.during_training import SampledValidation, sampled_validation
from pipeline.sampling.settings import SamplerSettings, SampleSettings
from storage.errors import UserError
from storage.media.pictures import write_image
from storage.media.video import read_video
from storage.run import Run
from storage.tables.ids import split_of
from storage.tables.records import Prompt
from storage.tables.shards import write_shard
from tests.pipeline.tiny import SAMPLER


def settings(model: Path, prompts: Path | None) -> SampleSettings:
    sampler = SamplerSettings(**SAMPLER)
    return SampleSettings(
        sampler=sampler, model=str(model), prompts=prompts, candidates=5, batch=5, seed=3, workers=2
    )


def add_prompts(run: Run, split: str, count: int) -> list[Prompt]:
    generator = np.random.default_rng(1)
    scenes = [name for n in range(400) if split_of(name := f"scene-{n}") == split][:count]
    rows = []
    for scene in scenes:
        frame = generator.integers(0, 256, (24, 40, 3), dtype=np.uint8)
        item = module_item(f"a quiet hall {scene}", frame, scene)
        uri = run.image_uri(item.prompt_id)
        write_image(run.resolve(uri), frame)
        rows.append(item.record(uri))
    write_shard(run.shard_dir("prompts"), "prompts", rows)
    return rows


def module_item(text: str, frame: Any, scene: str) -> Any:
    from pipeline.sampling.prompts import PromptItem

    return PromptItem(text=text, image_HW3=frame, scene_id=scene, camera_motion=["pan"], metadata={"n": 1})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create_or_open(tmp_path / "run")


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    """An untrained adapter: its second matrices are zero, so that its videos are the base model's."""
    return make_adapter(tiny_model, tmp_path / "adapter", 0.0)


def make_adapter(model: Path, folder: Path, size: float) -> Path:
    import torch

    from pipeline.models import resolve_model
    from trainer.families import load_family
    from trainer.lora import attach_lora, lora_state
    from trainer.saving.export import export_adapter

    family, base = load_family(model, torch.float32), resolve_model(str(model))
    attach_lora(family.transformer, 2, 2, family.lora_targets, 0)
    state = {name: value + size for name, value in lora_state(family.transformer).items()}
    return export_adapter(
        folder,
        state,
        component=family.component,
        base=(base.name, base.revision),
        family=family.name,
        rank=2,
        alpha=2,
        targets=family.lora_targets,
        training={},
    )


def never() -> bool:
    return False


def test_prompts_of_the_split_are_sampled_once_for_each_model(
    run: Run, tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    prompts = add_prompts(run, "val", 3)
    add_prompts(run, "train", 2)
    out = tmp_path / "samples"
    validation = sampled_validation(run, settings(tiny_model, Path("gone")), out, split="val", prompts=2)
    ratios = validation(10, adapter, never)
    assert ratios == {"motion_ratio": 1.0, "sharpness_ratio": 1.0}, "the adapter changes nothing"
    inner = Run.open(out)
    rows = inner.rows("candidates").to_pylist()
    chosen = sorted(prompt.prompt_id for prompt in prompts)[:2]
    assert sorted(row["prompt_id"] for row in rows) == sorted(chosen * 2)
    assert len({row["seed"] for row in rows}) == 2, "base and adapter at the same seeds"
    base = {row["candidate_id"] for row in rows if row["adapter"] is None}
    times = {path.name: path.stat().st_mtime_ns for path in (out / "media" / "videos").iterdir()}
    strong = validation(20, make_adapter(tiny_model, tmp_path / "strong", 0.5), never)
    assert strong != ratios
    after = {path.name: path.stat().st_mtime_ns for path in (out / "media" / "videos").iterdir()}
    assert times.items() <= after.items(), "nothing is sampled twice"
    assert len(after) == 6
    assert base <= {row["candidate_id"] for row in inner.rows("candidates").to_pylist()}


def test_what_cannot_be_measured_of_the_adapter_counts_zero(
    run: Run, tiny_model: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_prompts(run, "val", 2)
    validation = sampled_validation(
        run, settings(tiny_model, None), tmp_path / "samples", split="val", prompts=2
    )
    validation(1, adapter, never)
    inner = Run.open(tmp_path / "samples")
    of_adapter = [row for row in inner.rows("candidates").to_pylist() if row["adapter"]]
    grey = inner.resolve(of_adapter[0]["video_uri"])

    def seen(path: Path) -> Any:
        frames = read_video(path)
        return np.full_like(frames, 128) if path == grey else frames

    monkeypatch.setattr(module, "read_video", seen)
    ratios = validation(2, adapter, never)
    assert 0 < ratios["motion_ratio"] < 1
    assert 0 < ratios["sharpness_ratio"] < 1
    monkeypatch.setattr(module, "read_video", lambda path: np.full((9, 32, 32, 3), 7, dtype=np.uint8))
    with pytest.raises(UserError, match="no video of the base model has a motion_ratio"):
        validation(3, adapter, never)


def test_a_stop_ends_the_sampling_and_keeps_what_is_there(
    run: Run, tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    add_prompts(run, "val", 3)
    validation = sampled_validation(
        run, settings(tiny_model, None), tmp_path / "samples", split="val", prompts=3
    )
    asked: list[int] = []

    def second_time() -> bool:
        asked.append(1)
        return len(asked) > 1

    with pytest.raises(UserError, match="stopped on request"):
        validation(1, adapter, second_time)
    inner = Run.open(tmp_path / "samples")
    assert inner.rows("candidates").num_rows == 1
    assert validation(1, adapter, never)["motion_ratio"] == 1.0
    assert inner.rows("candidates").num_rows == 6


def test_without_prompts_of_the_split_the_world_gives_them(
    run: Run, tiny_model: Path, tmp_path: Path
) -> None:
    of_world = sampled_validation(run, settings(tiny_model, None), tmp_path / "s", split="val", prompts=4)
    assert isinstance(of_world, SampledValidation)
    assert (of_world.settings.split, of_world.settings.num_prompts) == ("val", 4)
    assert (of_world.settings.prompts, of_world.settings.candidates) == (None, 1)
    assert (of_world.settings.workers, of_world.settings.ray_address) == (0, None)
    with pytest.raises(UserError, match=r"has no prompts of split val to sample .*sample_every at 0"):
        sampled_validation(run, settings(tiny_model, Path("mine")), tmp_path / "s", split="val", prompts=4)
    with pytest.raises(UserError, match="sample_prompts must be at least 1, got 0"):
        sampled_validation(run, settings(tiny_model, None), tmp_path / "s", split="val", prompts=0)


def test_the_prompts_keep_their_ids(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    from pipeline.sampling.prompts import read_prompts

    prompts = add_prompts(run, "val", 2)
    made = sampled_validation(run, settings(tiny_model, None), tmp_path / "s", split="val", prompts=9)
    assert made.settings.prompts is not None
    items = list(read_prompts(made.settings.prompts, image_required=True))
    assert sorted(item.prompt_id for item in items) == sorted(prompt.prompt_id for prompt in prompts)
    record = items[0].record("media/images/x.png")
    assert json.loads(record.metadata) == {"n": 1}
    assert replace(record, image_uri=None).split == "val"
