"""What an adapter was trained on: by its file, by the pairs that its training lies beside, or not known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.pairing import run_pair
from storage.media.pictures import write_image
from storage.mining.rules import PairRules, PairSettings
from storage.pairs.index import PairIndex
from storage.run import Run
from storage.tables.ids import content_scene
from storage.tables.shards import write_shard
from storage.trained_on import FILE_NAME, trained_on, write_trained_on
from tests.storage.builders import prompt, run_with_pairs

PICTURE = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with pairs of three prompts: the first has a first frame, the last is of another split."""
    found = run_with_pairs(tmp_path / "run")
    shutil.rmtree(found.shard_dir("prompts"))
    splits = ("train", "train", "test")
    rows = [prompt(f"p{number:03}", split=split) for number, split in enumerate(splits)]
    rows[0] = prompt("p000", split="train", image_uri="media/images/p000.png")
    write_image(found.resolve("media/images/p000.png"), PICTURE)
    write_shard(found.shard_dir("prompts"), "prompts", rows)
    run_pair(found, PairSettings(rules=PairRules(min_gap=0.0, min_motion=0.0, min_coverage=0.0)))
    return found


def adapter(folder: Path, pairs: str | None = None) -> Path:
    """What a training leaves of an adapter, without its numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pytorch_lora_weights.safetensors").write_bytes(b"weights")
    note: dict[str, Any] = {"sha256": "abc", "training": {"pairs": pairs}}
    (folder / "adapter.json").write_text(json.dumps(note))
    return folder


def knows(
    folder: Path, scene_id: str = "other", content: str = "other", prompt_id: str = "other"
) -> str | None:
    found = trained_on(folder)
    assert found is not None
    return found.knows(prompt_id=prompt_id, scene_id=scene_id, content=content)


def test_it_knows_scenes_first_frames_captions_and_prompts_of_its_split(run: Run, tmp_path: Path) -> None:
    mine = adapter(tmp_path / "mine")
    write_trained_on(mine, run.shard_dir("pairs"), "train", None)
    found = trained_on(mine)
    assert found is not None
    assert (found.pairs, found.prompts, found.scenes, found.first_frames, found.complete) == (
        2,
        2,
        2,
        1,
        True,
    )
    assert knows(mine, scene_id="scene-p000") == "scene"
    # The same picture, called another scene elsewhere, and the same words without a picture.
    assert knows(mine, content=content_scene("whatever", PICTURE)) == "content"
    assert knows(mine, content=content_scene("a room, p001")) == "content"
    assert knows(mine, prompt_id="p001") == "prompt"
    assert knows(mine) is None
    assert knows(mine, content=content_scene("whatever", PICTURE[::-1])) is None
    # Of the pairs that were not trained on, nothing is held.
    assert knows(mine, "scene-p002", content_scene("a room, p002"), "p002") is None
    text = (mine / FILE_NAME).read_text()
    assert "scene-p000" not in text
    assert "a room" not in text


def test_a_training_that_went_on_from_another_holds_both(run: Run, tmp_path: Path) -> None:
    first, second, third = (adapter(tmp_path / name) for name in ("first", "second", "third"))
    write_trained_on(first, run.shard_dir("pairs"), "test", None)
    write_trained_on(second, run.shard_dir("pairs"), "train", 1, started_from=first)
    found = trained_on(second)
    assert found is not None
    assert (found.pairs, found.complete) == (2, True)
    assert knows(second, scene_id="scene-p002") == "scene"
    # Of one adapter on the way nothing is known: neither is then what all of it was.
    write_trained_on(third, run.shard_dir("pairs"), "train", None, started_from=adapter(tmp_path / "foreign"))
    found = trained_on(third)
    assert found is not None
    assert not found.complete
    assert knows(third, scene_id="scene-p000") == "scene"


def test_a_file_of_other_weights_says_nothing(run: Run, tmp_path: Path) -> None:
    mine = adapter(tmp_path / "mine")
    write_trained_on(mine, run.shard_dir("pairs"), None, None)
    (mine / "adapter.json").write_text(json.dumps({"sha256": "another", "training": {"pairs": None}}))
    assert trained_on(mine) is None


def training(run: Run, pairs_dir: Path, **more: Any) -> Path:
    """A finished training from before adapters said what they were trained on."""
    mine = adapter(run.path / "train" / "dpo" / "adapter", PairIndex(pairs_dir, "train").fingerprint)
    config = {"pairs_dir": str(pairs_dir), "split": "train", "max_pairs": None, **more}
    (mine.parent / "config.json").write_text(json.dumps(config))
    return mine


def test_without_a_file_the_pairs_of_its_run_say_it(run: Run, tmp_path: Path) -> None:
    mine = training(run, run.shard_dir("pairs"))
    assert knows(mine, scene_id="scene-p000") == "scene"
    assert knows(mine, scene_id="scene-p002") is None
    # Named by the folder of the training, and in a run that was moved since.
    moved = Path(shutil.move(run.path, tmp_path / "moved"))
    assert knows(moved / "train" / "dpo", scene_id="scene-p001") == "scene"


def test_pairs_that_were_chosen_again_say_nothing(run: Run) -> None:
    mine = training(run, run.shard_dir("pairs"))
    (mine / "adapter.json").write_text(json.dumps({"sha256": "abc", "training": {"pairs": "others"}}))
    assert trained_on(mine) is None


def test_a_training_that_is_not_done_says_it_by_its_checkpoint(run: Run) -> None:
    mine = training(run, run.shard_dir("pairs"), from_adapter="nowhere")
    pairs = json.loads((mine / "adapter.json").read_text())["training"]["pairs"]
    shutil.rmtree(mine)
    checkpoint = mine.parent / "checkpoints" / "step-00000005"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text(json.dumps({"config": {"pairs": pairs}}))
    found = trained_on(checkpoint)
    assert found is not None
    assert not found.complete, "of what it went on from nothing is known"
    assert knows(checkpoint, scene_id="scene-p000") == "scene"


def test_a_folder_that_is_no_adapter_says_nothing(tmp_path: Path) -> None:
    assert trained_on(tmp_path / "none") is None
