"""Names, seeds and paths that leave the source or break rules: one reason each, nothing else is lost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.importing.import_videos import run_import
from storage.errors import UserError
from storage.run import Run
from tests.importing.clips import clip, frames, rejected, settings
from tests.importing.hostile import PLACE, manifest, outcome


@pytest.mark.parametrize(
    ("name", "rule", "reason"),
    [
        ("one.mp4", "bad-seed", "seed 'one' is no integer from 0 to 2**63 - 1"),
        ("-1.mp4", "bad-seed", "seed '-1' is no integer"),
        ("9223372036854775808.mp4", "bad-seed", "seed 9223372036854775808 is no integer"),
        ("\u0663.mp4", "bad-seed", "is no integer"),
        ("00.mp4", "duplicate-seed", "has seed 0 of this prompt, which is a quiet hall 0/"),
    ],
)
def test_a_seed_is_one_number_of_its_prompt(
    run: Run, source: Path, name: str, rule: str, reason: str
) -> None:
    clip(source / PLACE / name, seed=5)
    summary = run_import(run, settings(source))
    assert (summary.done, summary.failed) == (1, 1)
    ((found, detail),) = rejected(run).values()
    assert found == rule
    assert reason in detail
    if rule == "duplicate-seed":
        assert "another video: number the videos of a prompt differently" in detail


def test_names_and_prompts_that_are_not_utf_8_cost_their_own_videos_only(run: Run, source: Path) -> None:
    raw = os.fsencode(source)
    os.mkdir(raw + b"/hall \xff")
    os.rename(clip(source / "x.mp4", seed=5), raw + b"/hall \xff/1.mp4")
    place = source / "latin"
    clip(place / "2.mp4", seed=6)
    (place / "prompt.txt").write_bytes("halle près".encode("latin-1"))
    os.rename(clip(source / "x.mp4", seed=7), os.fsencode(source / PLACE) + b"/\xfe.mp4")
    summary = run_import(run, settings(source))
    assert (summary.done, summary.failed) == (1, 3)
    found = rejected(run)
    assert found["hall \\udcff/1.mp4"][0] == "not-utf-8"
    assert "prompt.txt is not UTF-8 text: write it as UTF-8" in found["latin/2.mp4"][1]
    assert found[f"{PLACE}/\\udcfe.mp4"][0] == "bad-seed"
    # With a prompt file the folder's name says nothing, and may be what it likes.
    with open(raw + b"/hall \xff/prompt.txt", "w") as file:
        file.write("a hall")
    assert run_import(run, settings(source)).done == 1


@pytest.mark.parametrize("way", ["absolute", "dots", "link", "folder link", "first frame"])
def test_paths_that_leave_the_source_are_refused_unless_allowed(
    run: Run, source: Path, tmp_path: Path, way: str
) -> None:
    outside = clip(tmp_path / "outside" / "1.mp4", seed=5)
    one: dict[str, Any] = {"prompt": "a hall", "seed": 1, "path": f"{PLACE}/1.mp4"}
    if way == "absolute":
        one["path"] = str(outside)
    elif way == "dots":
        one["path"] = f"{PLACE}/../../outside/1.mp4"
    elif way == "link":
        (source / PLACE / "1.mp4").symlink_to(outside)
    elif way == "folder link":
        (source / "elsewhere").symlink_to(outside.parent)
        one["path"] = "elsewhere/1.mp4"
    else:
        from storage.media.pictures import write_image

        one["path"] = f"{PLACE}/0.mp4"
        one["prompt"] = "another hall"
        write_image(outside.with_suffix(".png"), frames()[0])
        one["first_frame"] = "../outside/1.png"
    path = manifest(source, one)
    rule, reason = outcome(run, path, "list.jsonl:2")
    assert rule == "outside"
    assert f"leads out of {source}: move the file there, or give allow_outside" in reason
    assert run_import(run, settings(path, allow_outside=True)).done == 1


def test_links_out_of_a_folder_are_refused_and_loops_end(run: Run, source: Path, tmp_path: Path) -> None:
    outside = clip(tmp_path / "outside" / "1.mp4", seed=5)
    (source / "elsewhere").symlink_to(outside.parent)
    (source / PLACE / "up").symlink_to(source)
    summary = run_import(run, settings(source))
    assert (summary.done, summary.failed) == (1, 2)
    assert rejected(run)["elsewhere"][0] == "outside"
    assert rejected(run)[f"{PLACE}/up"][0] == "link"
    assert run_import(run, settings(source, allow_outside=True)).done == 1


def test_a_path_inside_may_wind_about(run: Run, source: Path) -> None:
    clip(source / PLACE / "1.mp4", seed=5)
    lines = [{"prompt": "a hall", "seed": 1, "path": f"x/../{PLACE}/./1.mp4"}]
    assert run_import(run, settings(manifest(source, *lines))).done == 2


def test_sources_that_are_not_there_or_empty(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist: give a folder of videos or a manifest"):
        run_import(run, settings(tmp_path / "none"))
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match=r"holds no videos: a folder has PROMPT/SEED.mp4"):
        run_import(run, settings(tmp_path / "bare"))
