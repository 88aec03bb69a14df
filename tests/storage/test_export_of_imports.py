"""Exports of one's own videos: which file each is, what was done to it, and cards that claim no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from pipeline.importing.import_videos import run_import
from pipeline.pairing import run_pair
from storage.errors import UserError
from storage.hub.export import export_pairs
from storage.hub.provenance import pair_provenance
from storage.media.pictures import write_image
from storage.mining.rules import PairRules, PairSettings
from storage.pairs.dataset import PairDataset
from storage.run import Run
from storage.tables.shards import write_shard
from tests.importing.clips import clip, frames, settings
from tests.importing.foreign import Made, make
from tests.importing.shown import LIMITS
from tests.storage.builders import candidate, prompt, score


def paired(run: Run, *, index_only: bool = True) -> Run:
    """Scores by seed, and all pairs of every prompt."""
    rows = run.rows("candidates", ["candidate_id", "seed"]).to_pylist()
    scores = [score(row["candidate_id"], -0.1 * (1 + row["seed"]), reward="epipolar") for row in rows]
    write_shard(run.shard_dir("scores"), "scores", scores)
    rules = PairRules(reward="epipolar", min_gap=0.0, strategy="all")
    run_pair(run, PairSettings(rules=rules, index_only=index_only))
    return run


def exported(folder: Path) -> list[dict[str, Any]]:
    return list(ds.dataset(folder / "data").to_table().sort_by("pair_id").to_pylist())


@pytest.fixture
def imported(tmp_path: Path) -> Run:
    """A prompt of a turned phone's video and two plain ones, of which one is named by its absolute path."""
    make(tmp_path / "v" / "phone.mov", Made(container="mov", turn=90, height=96, width=64))
    for seed in (1, 2):
        clip(tmp_path / f"{'v' if seed == 1 else 'elsewhere'}" / f"{seed}.mp4", seed, height=96, width=64)
    paths = ["phone.mov", "1.mp4", str(tmp_path / "elsewhere" / "2.mp4")]
    lines = [{"prompt": "a hall", "seed": seed, "path": path} for seed, path in enumerate(paths)]
    (tmp_path / "v" / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run = Run.create_or_open(tmp_path / "run")
    source = settings(tmp_path / "v" / "list.jsonl", limits=LIMITS, allow_outside=True)
    assert run_import(run, source).done == 3
    return paired(run)


def test_an_index_says_which_file_each_video_is_and_what_was_done_to_it(
    imported: Run, tmp_path: Path
) -> None:
    export_pairs(imported, tmp_path / "out")
    rows = exported(tmp_path / "out")
    turned = {
        "source": "phone.mov", "changes": ["turned by 270 degrees", "written again as H.264"],
    }  # fmt: skip
    plain = {"source": "1.mp4", "changes": []}
    outside = {"source": "2.mp4", "changes": []}
    seeds = {row["candidate_id"]: row["seed"] for row in imported.rows("candidates").to_pylist()}
    assert {(seeds[row["winner_id"]], seeds[row["loser_id"]]) for row in rows} == {(0, 1), (0, 2), (1, 2)}
    for row in rows:
        assert (row["width"], row["height"], row["num_frames"], row["fps"]) == (64, 96, 9, 8)
        for side in ("winner", "loser"):
            expected = (turned, plain, outside)[seeds[row[f"{side}_id"]]] | {
                "origin": "imported", "source_width": 64, "source_height": 96, "source_frames": 9,
                "source_fps": 8.0, "video": f"media/videos/{row[f'{side}_id']}.mp4",
            }  # fmt: skip
            assert {name: row[f"{side}_{name}"] for name in expected} == expected
            assert imported.resolve(row[f"{side}_video"]).is_file()
    for path in (tmp_path / "out").rglob("*.*"):
        assert str(tmp_path).encode() not in path.read_bytes()


def test_the_card_names_no_model_where_none_made_the_videos(imported: Run, tmp_path: Path) -> None:
    export_pairs(imported, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "3 pairs (" in text
    assert "two videos of one prompt, both imported from elsewhere" in text
    assert "their terms are not known here" in text
    assert "manifest (3)" in text
    assert "sampled by" not in text
    assert "license: other" in text


def test_videos_come_along_as_a_folder_that_datasets_reads(imported: Run, tmp_path: Path) -> None:
    import datasets

    done = export_pairs(imported, tmp_path / "out", videos=True)
    assert (done.videos, done.files) == (3, 2)
    (split,) = done.splits
    hub = {"train": "train", "val": "validation", "test": "test"}[split]
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), split=hub)
    for side in ("winner", "loser"):
        assert isinstance(loaded.features[side], datasets.Video)
        loaded = loaded.cast_column(side, datasets.Video(decode=False))
    rows = {row["pair_id"]: row for row in exported(tmp_path / "out")}
    assert [row["pair_id"] for row in loaded] == sorted(rows)
    for row in loaded:
        for side in ("winner", "loser"):
            original = imported.resolve(imported.video_uri(row[f"{side}_id"])).read_bytes()
            assert Path(row[side]["path"]).read_bytes() == original
            assert (tmp_path / "out" / rows[row["pair_id"]][f"{side}_video"]).read_bytes() == original
            assert row[f"{side}_source"] == rows[row["pair_id"]][f"{side}_source"]


def test_a_video_that_is_gone_is_named(imported: Run, tmp_path: Path) -> None:
    lost = imported.rows("pairs")["winner_id"][0].as_py()
    imported.resolve(imported.video_uri(lost)).unlink()
    with pytest.raises(UserError, match=rf"has lost the video of candidate {lost} .*leave `videos` out"):
        export_pairs(imported, tmp_path / "out", videos=True)
    assert not (tmp_path / "out").exists()
    other = Run.create_or_open(tmp_path / "other")
    with pytest.raises(UserError, match=r"holds no candidate .*give the run that the pairs are of"):
        export_pairs(other, tmp_path / "out2", imported.shard_dir("pairs"), videos=True)


def test_encoded_videos_are_trained_on_from_the_export(tmp_path: Path, tiny_model: Path) -> None:
    place = tmp_path / "v" / "a hall"
    for seed in (0, 1):
        clip(place / f"{seed}.mp4", seed, count=18, height=40, width=64, fps=16)
    write_image(place / "first_frame.png", frames(0, height=40, width=64)[0])
    run = Run.create_or_open(tmp_path / "run")
    assert run_import(run, settings(tmp_path / "v", tiny_model, fit="crop", limits=LIMITS)).done == 2
    paired(run, index_only=False)
    done = export_pairs(run, tmp_path / "out")
    assert done.tensors
    (row,) = exported(tmp_path / "out")
    assert row["winner_changes"] == [
        "cut", "scaled to 32x32", "frames taken by time, at 8 a second", "written again as H.264",
    ]  # fmt: skip
    assert (row["winner_source"], row["winner_source_width"]) == ("a hall/0.mp4", 64)
    (old,), (new,) = PairDataset(run.shard_dir("pairs")), PairDataset(tmp_path / "out")
    assert old.pair_id == new.pair_id
    assert old.winner_latents.equal(new.winner_latents)
    found = pair_provenance(Run.create_or_open(tmp_path / "elsewhere"), tmp_path / "out", None)
    assert found is not None
    assert found.videos.told() == "two videos of one prompt, both imported from elsewhere"
    assert "Their latents were made by `tiny`." in found.videos.terms()


def test_mixed_pairs_are_counted(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "run")
    write_shard(run.shard_dir("prompts"), "prompts", [prompt("p0"), prompt("p1")])
    made = json.dumps({"imported": {"source": "a.mp4", "video": {"size": [64, 64], "frames": 9, "fps": 8}}})
    rows = [candidate(f"{p}-{at}", p, seed=at) for p in ("p0", "p1") for at in range(2)]
    rows += [candidate(f"p0-{at}", "p0", seed=at, sampler=made) for at in (2, 3)]
    write_shard(run.shard_dir("candidates"), "candidates", rows)
    found = pair_provenance(run, paired(run).shard_dir("pairs"), None)
    assert found is not None
    assert found.videos.pairs == {
        ("imported", "imported"): 1, ("imported", "sampled"): 4, ("sampled", "sampled"): 2,
    }  # fmt: skip
    assert found.videos.told() == (
        "two videos of one prompt (both imported from elsewhere, in 1; one imported from elsewhere and one "
        "sampled by `world`, in 4; both sampled by `world`, in 2)"
    )
