"""Videos made elsewhere become candidates: what is kept, how it resumes, and what works from there."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.importing.import_videos import dry_run, run_import
from pipeline.models import resolve_model
from pipeline.sampling.samplers import make_sampler
from pipeline.sampling.settings import SamplerSettings
from storage.errors import UserError
from storage.media.tensors import read_tensors
from storage.media.video import read_video
from storage.run import Run
from storage.tables.ids import split_of
from tests.importing.clips import clip, folder, frames, rejected, rows, settings
from tests.pipeline.tiny import SAMPLER


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return folder(tmp_path / "videos")


@pytest.mark.parametrize("link", [False, True])
def test_without_a_model_the_files_are_in_the_run_and_scores_can_follow(
    run: Run, source: Path, link: bool
) -> None:
    summary = run_import(run, settings(source, link=link))
    assert (summary.wanted, summary.done, summary.failed) == (4, 4, 0)
    prompts = {row["prompt_id"]: row for row in rows(run, "prompts")}
    assert sorted(row["text"] for row in prompts.values()) == ["a quiet hall 0", "a quiet hall 1"]
    for row in rows(run):
        text = prompts[row["prompt_id"]]["text"]
        original = source / text / f"{row['seed']}.mp4"
        kept = run.resolve(row["video_uri"])
        assert kept.read_bytes() == original.read_bytes()
        assert os.path.samefile(kept, original) == link
        assert (row["num_frames"], row["height"], row["width"], row["fps"]) == (9, 32, 32, 8)
        assert (row["model"], row["latent_uri"], row["status"]) == ("imported", None, "ok")
        assert json.loads(row["sampler"])["imported"]["source"] == f"{text}/{row['seed']}.mp4"
        image = run.resolve(prompts[row["prompt_id"]]["image_uri"])
        assert image.exists()
    again = run_import(run, settings(source, link=link))
    assert (again.present, again.done) == (4, 0)


def test_with_a_model_candidates_are_as_if_it_had_sampled_them(
    run: Run, source: Path, tiny_model: Path
) -> None:
    assert run_import(run, settings(source, tiny_model)).done == 4
    sampler = make_sampler(resolve_model(str(tiny_model)), SamplerSettings(**SAMPLER))
    sampler.setup()
    for row in rows(run):
        assert row["model"] == "tiny"
        kept = read_tensors(run.resolve(row["latent_uri"]))
        condition = read_tensors(run.resolve(run.condition_uri(row["prompt_id"])))
        assert set(kept) == {"latents"}
        assert set(condition) == {"prompt_embeds", "image_latents"}
        assert kept["latents"].shape == condition["image_latents"].shape == (3, 4, 4, 4)
        pixels = torch.from_numpy(read_video(run.resolve(row["video_uri"])))
        prompt = next(one for one in rows(run, "prompts") if one["prompt_id"] == row["prompt_id"])
        image = torch.from_numpy(frames(10 * int(prompt["text"][-1]))[0])
        expected = sampler.encode_video(pixels, sampler.encode(prompt["text"], image))
        assert torch.equal(kept["latents"], expected)


def test_latents_come_later_and_scores_stay(run: Run, source: Path, tiny_model: Path) -> None:
    run_import(run, settings(source))
    before = {row["candidate_id"] for row in rows(run)}
    times = {path: path.stat().st_mtime_ns for path in (run.path / "media/videos").iterdir()}
    assert run_import(run, settings(source, tiny_model)).done == 4
    after = rows(run)
    assert {row["candidate_id"] for row in after} == before
    assert all(row["model"] == "tiny" and row["latent_uri"] for row in after)
    assert times == {path: path.stat().st_mtime_ns for path in (run.path / "media/videos").iterdir()}
    from storage.sql.views import fetch, session

    with session(run, "candidates") as connection:
        found = fetch(connection, "SELECT count(*), count(latent_uri), min(model) FROM candidates")
    assert found == [(4, 4, "tiny")]
    # And neither command has anything left to do.
    assert run_import(run, settings(source, tiny_model)).present == 4
    assert run_import(run, settings(source)).present == 4


@pytest.mark.parametrize("cut", [0, 100])
def test_a_condition_that_was_cut_off_is_written_again(
    run: Run, source: Path, tiny_model: Path, cut: int
) -> None:
    run_import(run, settings(source, tiny_model))
    paths = [run.resolve(run.condition_uri(row["prompt_id"])) for row in rows(run, "prompts")]
    kept = [path.read_bytes() for path in paths]
    # As a machine leaves it that lost its power before the rows were there.
    paths[0].write_bytes(kept[0][:cut])
    for shard in run.shard_dir("candidates").glob("*.parquet"):
        shard.unlink()
    assert run_import(run, settings(source, tiny_model)).done == 4
    assert [path.read_bytes() for path in paths] == kept


def test_only_what_is_missing_is_taken_in(run: Run, source: Path) -> None:
    run_import(run, settings(source))
    made = {row["candidate_id"]: row["created_at"] for row in rows(run)}
    clip(source / "a quiet hall 0" / "7.mp4", seed=99)
    (run.path / rows(run)[0]["video_uri"]).touch()
    summary = run_import(run, settings(source))
    assert (summary.present, summary.done) == (4, 1)
    shard = sorted(run.shard_dir("candidates").glob("*.parquet"))[0]
    shard.unlink()
    healed = run_import(run, settings(source))
    assert healed.done == 5 - healed.present > 0
    assert made.keys() < {row["candidate_id"] for row in rows(run)}


def test_a_moved_run_needs_nothing_of_the_source(
    run: Run, source: Path, tiny_model: Path, tmp_path: Path
) -> None:
    import shutil

    run_import(run, settings(source, tiny_model, link=True))
    shutil.rmtree(source)
    moved = Run.open(run.path.rename(tmp_path / "moved"))
    for row in rows(moved):
        assert read_video(moved.resolve(row["video_uri"])).shape == (9, 32, 32, 3)
        assert str(tmp_path) not in json.dumps(row)


@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_videos_of_another_size_are_fitted_when_asked(
    run: Run, tmp_path: Path, tiny_model: Path, fit: str
) -> None:
    source = folder(tmp_path / "videos", prompts=1, seeds=1)
    place = source / "a quiet hall 0"
    clip(place / "5.mp4", seed=5, count=12, height=40, width=64)
    clip(place / "6.mp4", seed=6, count=8)
    refused = run_import(run, settings(source, tiny_model))
    assert (refused.done, refused.failed) == (1, 2)
    rule, detail = rejected(run)["a quiet hall 0/5.mp4"]
    assert rule == "size"
    assert "has 12 frames of 64x40, the model is asked for 9 of 32x32: use `fit` crop or resize" in detail
    assert rejected(run)["a quiet hall 0/6.mp4"][0] == "too-short"
    fitted = run_import(run, settings(source, tiny_model, fit=fit))
    assert (fitted.present, fitted.done, fitted.failed) == (1, 1, 1)
    row = next(row for row in rows(run) if row["seed"] == 5)
    kept = read_video(run.resolve(row["video_uri"]))
    assert kept.shape == (9, 32, 32, 3)
    assert (row["num_frames"], row["height"], row["width"]) == (9, 32, 32)
    whole = frames(5, count=12, height=40, width=64)[:9]
    middle = whole[:, :, 12:52] if fit == "crop" else whole
    assert abs(float(kept.mean()) - float(middle.mean())) < 2
    # Half the picture's pixels of a crop are those of its middle.
    left, right = np.split(kept.astype(float), 2, axis=2)
    half = middle.shape[2] // 2
    assert abs(left.mean() - middle[:, :, :half].mean()) < 2
    assert abs(right.mean() - middle[:, :, half:].mean()) < 2


def test_a_prompt_file_and_nested_folders_say_the_prompt(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "videos"
    clip(source / "models" / "one" / "3.mp4", seed=1)
    (source / "models" / "one" / "prompt.txt").write_text(
        "\ufeffa long hall,\nwith a door \n", encoding="utf-8"
    )
    clip(source / "top.mp4", seed=2)
    (source / "notes.txt").write_text("not a video")
    (source / ".hidden").mkdir()
    assert run_import(run, settings(source)).failed == 1
    assert [row["text"] for row in rows(run, "prompts")] == ["a long hall,\nwith a door"]
    assert [row["seed"] for row in rows(run)] == [3]
    assert rejected(run)["top.mp4"][0] == "no-prompt"
    (source / "prompt.txt").write_text("the top")
    (source / "top.mp4").rename(source / "4.mp4")
    assert run_import(run, settings(source)).done == 1


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_manifests_say_the_same_in_every_format(run: Run, tmp_path: Path, suffix: str) -> None:
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq

    folder(tmp_path / "videos", prompts=1, seeds=3)
    place = "videos/a quiet hall 0"
    listed = [
        {
            "prompt": "a hall",
            "path": f"{place}/{seed}.mp4",
            "seed": 100 + seed,
            "first_frame": f"{place}/first_frame.png",
            "scene_id": "hall",
            "split": "val",
            "metadata": json.dumps({"by": "somebody", "number": seed}),
        }
        for seed in range(3)
    ]
    path = tmp_path / f"list.{suffix}"
    if suffix == "jsonl":
        parsed = [{**one, "metadata": json.loads(one["metadata"])} for one in listed]
        path.write_text("\n".join(json.dumps(one) for one in parsed) + "\n\n")
    elif suffix == "csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(listed[0]))
            writer.writeheader()
            writer.writerows(listed)
    else:
        pq.write_table(pa.Table.from_pylist(listed), path)
    assert run_import(run, settings(path)).done == 3
    (prompt,) = rows(run, "prompts")
    assert (prompt["text"], prompt["scene_id"], prompt["split"]) == ("a hall", "hall", "val")
    assert json.loads(prompt["metadata"]) == {"by": "somebody", "number": 0}
    found = {row["seed"]: json.loads(row["sampler"])["imported"] for row in rows(run)}
    assert {seed: one["metadata"]["number"] for seed, one in found.items()} == {100: 0, 101: 1, 102: 2}
    assert found[100]["source"] == f"list.{suffix}:{1 if suffix != 'csv' else 2}"


def test_a_scene_has_one_split(run: Run, tmp_path: Path) -> None:
    folder(tmp_path / "videos", prompts=1, seeds=4, first_frames=False)
    base = {"path": "videos/a quiet hall 0/{}.mp4", "scene_id": "house"}
    given = [("a", "val"), ("b", None), ("c", "test"), ("a", "train")]
    lines = [
        {**base, "path": base["path"].format(seed), "prompt": text, "seed": seed}
        | ({} if split is None else {"split": split})
        for seed, (text, split) in enumerate(given)
    ]
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    assert split_of("house") != "val"
    assert run_import(run, settings(path)).done == 2
    assert {row["text"]: row["split"] for row in rows(run, "prompts")} == {"a": "val", "b": "val"}
    assert {rule for rule, _ in rejected(run).values()} == {"conflict"}
    assert "a scene has one split" in rejected(run)["list.jsonl:3"][1]
    assert (
        "says split test, but its scene 'house' is in val by list.jsonl:1" in rejected(run)["list.jsonl:3"][1]
    )
    assert "says split 'train', its prompt has 'val' by list.jsonl:1" in rejected(run)["list.jsonl:4"][1]


def test_a_dry_run_counts_and_writes_nothing(run: Run, source: Path) -> None:
    (source / "a quiet hall 0" / "8.mp4").write_bytes(b"")
    before = sorted(run.path.rglob("*"))
    plan = dry_run(run, settings(source))
    sizes = sum(path.stat().st_size for path in source.rglob("*.mp4"))
    assert (plan.prompts, plan.wanted, plan.missing, plan.bytes) == (2, 4, 4, sizes)
    assert [one.rule for one in plan.rejects] == ["empty"]
    assert sorted(run.path.rglob("*")) == before
    assert dry_run(None, settings(source)).missing == 4
    run_import(run, settings(source))
    assert (dry_run(run, settings(source)).missing, dry_run(run, settings(source)).bytes) == (0, 0)


def test_models_that_need_a_first_frame_say_so_for_each_video(
    run: Run, tmp_path: Path, tiny_model: Path
) -> None:
    source = folder(tmp_path / "videos", prompts=1)
    clip(source / "no frame" / "1.mp4", seed=50)
    summary = run_import(run, settings(source, tiny_model))
    assert (summary.done, summary.failed) == (2, 1)
    rule, detail = rejected(run)["no frame/1.mp4"]
    assert rule == "no-first-frame"
    assert "from which model 'tiny' starts: add first_frame.png beside it" in detail
    assert "no frame" not in {row["text"] for row in rows(run, "prompts")}


def test_runs_of_another_model_and_bad_options_are_refused(
    run: Run, source: Path, tiny_model: Path, tmp_path: Path
) -> None:
    from tests.pipeline.tiny import build

    run_import(run, settings(source, tiny_model))
    clip(source / "a quiet hall 0" / "9.mp4", seed=99)
    with pytest.raises(UserError, match="holds candidates of tiny at revision"):
        run_import(run, settings(source))
    with pytest.raises(UserError, match="holds candidates of tiny at revision"):
        run_import(run, settings(source, build(tmp_path / "other", seed=1)))
    half = SamplerSettings(**SAMPLER | {"precision": "bf16"})
    with pytest.raises(UserError, match="sampled with precision fp32, this command has bf16"):
        run_import(run, settings(source, tiny_model, sampler=half))
    for changes, message in (
        ({"fit": "crop"}, "`fit` crop is for videos that are encoded"),
        ({"revision": "a"}, "`revision` is for videos that are encoded"),
        ({"batch": 0}, "batch must be at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            settings(source, **changes)
    with run.lock("import"), pytest.raises(UserError, match="runs import in"):
        run_import(run, settings(source, tiny_model))


def test_prompts_in_another_writing_keep_their_ids(
    run: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.importing import manifest

    (source / "a quiet hall 1").rename(source / "a quiet cafe\u0301")
    with monkeypatch.context() as before:
        # As texts were kept when the run was made.
        before.setattr(manifest, "text_of", lambda text, name: text)
        assert run_import(run, settings(source)).done == 4
    again = run_import(run, settings(source))
    assert (again.present, again.done) == (4, 0)
    assert len(rows(run, "prompts")) == 2


def test_scenes_that_were_called_with_a_point_stay_one_scene(
    run: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.importing import tables

    lines = [f"a hall {number},{number},a quiet hall 0/{number}.mp4,1.0" for number in range(2)]
    path = source / "list.csv"
    path.write_text("\n".join(["prompt,seed,path,scene_id", lines[0]]))
    with monkeypatch.context() as before:
        # As scenes were called when the run was made.
        before.setattr(tables, "_WHOLE", re.compile("(none)"))
        assert run_import(run, settings(path)).done == 1
    path.write_text("\n".join(["prompt,seed,path,scene_id", *lines]))
    again = run_import(run, settings(path))
    assert (again.present, again.done, again.failed) == (1, 1, 0)
    assert {row["scene_id"] for row in rows(run, "prompts")} == {"1.0"}


def test_prompts_whose_end_the_model_does_not_see_are_told_and_refused_when_strict(
    run: Run, source: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (source / "a quiet hall 1" / "prompt.txt").write_text("a quiet hall " * 3)
    with pytest.raises(UserError, match="1 of 2 prompts have more than 8 tokens, the longest 9: 'a quiet"):
        run_import(run, settings(source, tiny_model, strict_prompts=True))
    assert not rows(run, "prompts")
    assert run_import(run, settings(source, tiny_model)).done == 4
    assert "1 of 2 prompts have more than 8 tokens; what follows is not seen" in caplog.text
    with pytest.raises(UserError, match="strict_prompts is for videos that are encoded: give `model` NAME"):
        settings(source, strict_prompts=True)
