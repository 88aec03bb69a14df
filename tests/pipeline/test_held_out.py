"""Held-out means held-out: which prompts an evaluation takes, and what it says of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluation.adapters import NamedAdapter
from pipeline.evaluation.held_out import Chosen, choose_prompts
from pipeline.sampling.prompts import PromptItem
from pipeline.sampling.settings import SamplerSettings, SampleSettings
from pipeline.world.clips import world_keys
from storage.errors import FieldError, UserError
from storage.media.pictures import write_image
from storage.run import Run
from storage.tables.ids import split_of
from storage.tables.records import Pair
from storage.tables.shards import write_shard
from storage.trained_on import write_trained_on
from tests.pipeline.test_prompts import IMAGE
from tests.pipeline.tiny import SAMPLER
from tests.storage.builders import prompt

NAMES = [str(number) for number in range(1000)]
TEST = [name for name in NAMES if split_of(name) == "test"][:4]
TRAIN = [name for name in NAMES if split_of(name) == "train"][:2]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create_or_open(tmp_path / "run")


def prompts(folder: Path, *lines: dict[str, Any]) -> Path:
    """A file of these lines, each with a first frame of its own."""
    for number, line in enumerate(lines):
        line.setdefault("image", f"{number}.png")
        write_image(folder / f"{number}.png", IMAGE ^ (number + 1))
    path = folder / "p.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def pair_of(scene: str) -> Pair:
    """A pair of a prompt of that scene, without tensors."""
    return Pair(
        pair_id=f"pair {scene}", prompt_id=f"prompt {scene}", scene_id=scene, split="train", text=scene,
        winner_id="w", loser_id="l", winner_value=1.0, loser_value=0.0, gap=1.0, reward="r",
        reward_version="1", winner_motion=None, loser_motion=None, model="world", revision="r",
    )  # fmt: skip


def adapter(folder: Path, *scenes: str) -> NamedAdapter:
    """An adapter that was trained on a pair of each of these scenes."""
    rows = [pair_of(scene) for scene in scenes]
    write_shard(folder / "pairs", "pairs", rows)
    (folder / "pytorch_lora_weights.safetensors").write_bytes(b"")
    (folder / "adapter.json").write_text('{"sha256": "0"}')
    write_trained_on(folder, folder / "pairs", None, None)
    return NamedAdapter(name=folder.name, path=folder)


def choose(run: Run, file: Path | None, *adapters: NamedAdapter, **changes: Any) -> Chosen:
    chosen = {
        "any_split": changes.pop("any_split", False),
        "also_trained": changes.pop("also_trained", False),
    }
    sample = SampleSettings(
        sampler=SamplerSettings(**SAMPLER), prompts=file, num_prompts=4, **{"split": "test", **changes}
    )
    return choose_prompts(run, sample, adapters, **chosen)


def taken(chosen: Chosen) -> set[str]:
    assert chosen.sample.only is not None
    return {scene for scene, _ in chosen.sample.only.values()}


def test_prompts_of_other_splits_and_trained_ones_are_left_out(run: Run, tmp_path: Path) -> None:
    file = prompts(tmp_path, *({"text": "a", "scene_id": scene} for scene in (*TEST, *TRAIN)))
    mine, other = adapter(tmp_path / "mine", TEST[0]), adapter(tmp_path / "other", TEST[1], TRAIN[0])
    chosen = choose(run, file, mine, other)
    assert taken(chosen) == set(TEST[2:])
    assert (chosen.use.status, chosen.use.other_splits, chosen.use.left_out) == ("held-out", 2, {"scene": 2})
    assert chosen.use.words(2, "mine") == "2 held-out prompts"
    assert chosen.use.lines() == [
        "prompts: of split test, on none of which an adapter was trained",
        "prompts left out: 2 that an adapter was trained on (by scene), 2 of other splits",
    ]
    assert taken(choose(run, file, mine, other, any_split=True)) == {*TEST[2:], TRAIN[1]}


def test_a_scene_of_another_name_is_known_by_its_first_frame(run: Run, tmp_path: Path) -> None:
    file = prompts(tmp_path, {"text": "a", "scene_id": TEST[0]}, {"text": "b", "scene_id": TEST[1]})
    content = PromptItem(text="anything", image_HW3=IMAGE ^ 1).content
    chosen = choose(run, file, adapter(tmp_path / "mine", content))
    assert taken(chosen) == {TEST[1]}
    assert chosen.use.left_out == {"first frame or caption": 1}


def test_a_run_has_placed_its_scenes(run: Run, tmp_path: Path) -> None:
    rows = [prompt("p0", TRAIN[0], split="test"), prompt("p1", TEST[0], split="train")]
    write_shard(run.shard_dir("prompts"), "prompts", rows)
    file = prompts(tmp_path, {"text": "a", "scene_id": TRAIN[0]}, {"text": "b", "scene_id": TEST[0]})
    assert taken(choose(run, file, adapter(tmp_path / "mine", "elsewhere"))) == {TRAIN[0]}
    placed = prompts(tmp_path, {"text": "c", "scene_id": TRAIN[0], "split": "val"})
    with pytest.raises(
        UserError, match=r"p\.jsonl:1: says split val, but its scene .* is in test by the run"
    ):
        choose(run, placed, adapter(tmp_path / "mine", "elsewhere"))


def test_seen_prompts_are_said_to_be_seen(run: Run, tmp_path: Path) -> None:
    file = prompts(tmp_path, *({"text": "a", "scene_id": scene} for scene in TEST))
    first, second = adapter(tmp_path / "t0", *TEST[:3]), adapter(tmp_path / "t1", "elsewhere")
    group = [NamedAdapter(name=f"ours/{at}", path=one.path) for at, one in enumerate((first, second))]
    chosen = choose(run, file, *group, also_trained=True)
    assert taken(chosen) == set(TEST)
    assert len(chosen.trained) == 3
    use = chosen.use
    assert (use.status, use.seen, use.left_out) == ("seen", {"ours/0": 3, "ours": 3}, {})
    assert use.words(4, "ours/0") == use.words(4, "ours") == "4 prompts, 3 of them prompts seen in training"
    assert use.words(3, "ours") == "3 prompts seen in training"
    assert use.words(4, "ours/1") == "4 held-out prompts"
    assert "held" not in use.words(4) + " ".join(use.lines())
    assert (
        use.lines()[0] == "prompts: of split test, prompts seen in training: ours/0 was trained on 3 of them"
    )
    json.dumps(asdict(use))


def test_what_is_not_known_is_said_and_not_taken_for_held_out(run: Run, tmp_path: Path) -> None:
    file = prompts(tmp_path, *({"text": "a", "scene_id": scene} for scene in TEST))
    foreign = NamedAdapter(name="foreign", path=tmp_path / "foreign")
    use = choose(run, file, adapter(tmp_path / "mine", "elsewhere"), foreign).use
    assert (use.status, use.unknown) == ("unknown", ("foreign",))
    assert use.words(4, "mine") == "4 held-out prompts"
    for words in (use.words(4, "foreign"), use.words(4)):
        assert words == "4 prompts (whether seen in training is not known)"
    assert use.lines() == [
        "what foreign was trained on is not known: the prompts, of split test, may have been seen in training"
    ]


def test_where_nothing_is_left_the_ways_on_are_named(run: Run, tmp_path: Path) -> None:
    file = prompts(tmp_path, {"text": "a", "scene_id": TEST[0]}, {"text": "b", "scene_id": TRAIN[0]})
    mine = adapter(tmp_path / "mine", TEST[0])
    message = (
        r"no prompt of .*p\.jsonl is left to evaluate on: of 2, 1 are of other splits than test and 1 were "
        r"trained on; give `prompts` of other scenes, or take those of every split \(`split` all\), or "
        r"evaluate on what was trained on \(`also_trained`\)"
    )
    with pytest.raises(UserError, match=message):
        choose(run, file, mine)


def test_scenes_of_the_world_that_were_trained_on_are_left_out(run: Run, tmp_path: Path) -> None:
    scenes = [scene for scene, _, _ in world_keys("test", 4)]
    whole = choose(run, None, adapter(tmp_path / "other", TRAIN[0]))
    assert (whole.sample.only, whole.use.status) == (None, "held-out")
    mine = adapter(tmp_path / "mine", scenes[0], scenes[2])
    assert taken(choose(run, None, mine)) == {scenes[1], scenes[3]}
    with pytest.raises(
        UserError, match=r"no prompt of the world is left .*; choose another `split`, or evaluate"
    ):
        choose(run, None, adapter(tmp_path / "all", *scenes))
    with pytest.raises(
        FieldError, match="split must be train, val or test for the world's prompts, got 'all'"
    ):
        choose(run, None, mine, any_split=True)
