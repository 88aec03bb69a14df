"""Which split prompts of one's own fall into, from a file to the rows of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.sampling.prompts import PromptItem
from pipeline.sampling.sample import SamplePlan, plan_sample
from pipeline.sampling.settings import SamplerSettings, SampleSettings
from pipeline.sampling.splits import SplitBy, told_splits
from storage.errors import FieldError, UserError
from storage.media.pictures import write_image
from storage.run import Run
from storage.tables.ids import split_of
from tests.pipeline.test_prompts import IMAGE
from tests.pipeline.tiny import SAMPLER

Plan = Callable[..., SamplePlan]
TRAIN, VAL, TEST = (
    next(name for name in map(str, range(1000)) if split_of(name) == split)
    for split in ("train", "val", "test")
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create_or_open(tmp_path / "run")


@pytest.fixture
def plan(tiny_model: Path, tmp_path: Path, run: Run) -> Plan:
    """Writes a prompts file of these lines and takes its prompts into the run."""

    def planned(*lines: dict[str, Any], split_by: SplitBy = "scene") -> SamplePlan:
        write_image(tmp_path / "a.png", IMAGE)
        path = tmp_path / "p.jsonl"
        path.write_text("\n".join(json.dumps({"image": "a.png", **line}) for line in lines))
        sampler = SamplerSettings(**SAMPLER)
        given = SampleSettings(sampler=sampler, model=str(tiny_model), prompts=path, split_by=split_by)
        return plan_sample(given, run)

    return planned


def placed(run: Run) -> dict[str, tuple[str, str]]:
    """Scene and split of every prompt of a run by its text."""
    return {row["text"]: (row["scene_id"], row["split"]) for row in run.rows("prompts").to_pylist()}


def test_the_hash_of_the_scene_places_what_no_column_does(run: Run, plan: Plan) -> None:
    done = plan(
        {"text": "a", "scene_id": VAL},
        {"text": "b", "scene_id": VAL},
        {"text": "c", "scene_id": TEST, "split": "train"},
        {"text": "d", "scene_id": TEST},
    )
    assert placed(run) == {"a": (VAL, "val"), "b": (VAL, "val"), "c": (TEST, "train"), "d": (TEST, "train")}
    rule = "by hash of the scene; --split-by none keeps all in train"
    assert done.splits == f"4 prompts: 2 train, 2 val, 0 test (1 as the file says, the others {rule})"


def test_none_keeps_all_in_train_but_what_a_column_places(run: Run, plan: Plan) -> None:
    lines = [{"text": "a", "scene_id": VAL}, {"text": "b", "scene_id": TRAIN, "split": "test"}]
    assert plan(*lines, split_by="none").splits == (
        "2 prompts: 1 train, 0 val, 1 test (1 as the file says, the others none: all train)"
    )
    assert placed(run) == {"a": (VAL, "train"), "b": (TRAIN, "test")}
    # The scene stays where it is when more of it comes without a word on splits.
    plan(*lines, {"text": "c", "scene_id": VAL})
    assert placed(run)["c"] == (VAL, "train")


def test_every_prompt_may_be_a_scene_of_its_own(run: Run, plan: Plan) -> None:
    texts = [f"a room {number}" for number in range(40)]
    plan(*({"text": text, "scene_id": TRAIN} for text in texts), split_by="prompt")
    ids = {text: PromptItem(text=text, image_HW3=IMAGE).prompt_id for text in texts}
    assert placed(run) == {text: (prompt_id, split_of(prompt_id)) for text, prompt_id in ids.items()}
    assert {split for _, split in placed(run).values()} == {"train", "val", "test"}
    (row,) = (row for row in run.rows("prompts").to_pylist() if row["text"] == texts[0])
    assert json.loads(row["metadata"]) == {"scene_id": TRAIN}


def test_a_source_falls_into_one_split(run: Run, plan: Plan) -> None:
    lines = [
        {
            "text": f"{source} {scene}",
            "scene_id": f"{source} {scene}",
            "metadata": {"source": f"film {source}"},
        }
        for source in range(30)
        for scene in range(3)
    ]
    plan(*lines, split_by="source")
    splits: dict[str, set[str]] = {}
    for text, (_, split) in placed(run).items():
        splits.setdefault(text.partition(" ")[0], set()).add(split)
    assert all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("lines", "split_by", "message"),
    [
        (
            [{"text": "a", "split": "dev"}],
            "scene",
            r"p\.jsonl:1: split must be one of train, val, test, got 'dev': change it",
        ),
        (
            [{"text": "a", "scene_id": "s", "split": "val"}, {"text": "b", "scene_id": "s", "split": "test"}],
            "scene",
            r"p\.jsonl:2: says split test, but its scene 's' is in val by .*p\.jsonl:1: .*make them agree",
        ),
        (
            [{"text": "a", "scene_id": TRAIN}, {"text": "b", "scene_id": TRAIN, "split": "test"}],
            "scene",
            r"p\.jsonl:2: says split test, but its scene .* is in train by .*p\.jsonl:1",
        ),
        (
            [{"text": "a", "split": "val"}, {"text": "a", "split": "test"}],
            "scene",
            r"p\.jsonl:2: says split test, .*p\.jsonl:1 is the same prompt and says val: make them agree",
        ),
        (
            [{"text": "a", "metadata": {"source": ""}}],
            "source",
            r"p\.jsonl:1: metadata\.source must be text, by which `split_by` source splits, got ''",
        ),
    ],
)
def test_splits_that_cannot_be_are_refused_with_their_lines(
    run: Run, plan: Plan, lines: list[dict[str, Any]], split_by: SplitBy, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        plan(*lines, split_by=split_by)
    assert not placed(run)


def test_what_a_run_has_placed_cannot_be_placed_otherwise(run: Run, plan: Plan) -> None:
    plan({"text": "a", "scene_id": VAL})
    with pytest.raises(
        UserError, match=r"falls by none into split train, but its scene .* is in val by the run"
    ):
        plan({"text": "a", "scene_id": VAL}, split_by="none")
    with pytest.raises(
        UserError, match="the run has this prompt in split val, by `split_by` prompt it falls"
    ):
        plan({"text": "a", "scene_id": VAL}, split_by="prompt")
    with pytest.raises(UserError, match=r"says split test, but its scene .* is in val by the run"):
        plan({"text": "b", "scene_id": VAL, "split": "test"})


def test_the_scenes_of_the_world_are_where_they_are() -> None:
    with pytest.raises(FieldError, match="split_by must be scene for the world's prompts, got 'none'"):
        SampleSettings(sampler=SamplerSettings(**SAMPLER), split_by="none")


def test_a_file_that_places_all_of_its_prompts_is_told_as_such() -> None:
    assert (
        told_splits(["train", "test"], "scene", 2) == "2 prompts: 1 train, 0 val, 1 test (as the file says)"
    )
