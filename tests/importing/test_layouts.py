"""Folders as the trainers of video models have them: each caption reaches its video, or a reason is given."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.importing.folders import VIDEOS, folder_entries
from pipeline.importing.import_videos import run_import
from pipeline.importing.manifest import Entry, seed_of_name
from storage.errors import UserError
from storage.run import Run
from storage.tables.records import Reject
from tests.importing.clips import clip, rejected, rows, settings

TEXTS = ["a hall at noon", "a café by the sea", "a stair, with people"]


def layout(root: Path, files: dict[str, str | bytes]) -> Path:
    """Write files; those of videos are empty, for nobody opens them here."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return root


def videos(*names: str) -> dict[str, str | bytes]:
    return dict.fromkeys(names, b"")


def found(root: Path) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    """The text of every video, and the rule and reason of what is refused, by path in the source."""
    listed = list(folder_entries(root, allow_outside=False))
    entries = [one for one in listed if isinstance(one, Entry)]
    taken = {one.path.relative_to(root).as_posix(): one.text for one in entries}
    assert len(taken) == len(entries)
    return taken, {one.id: (one.rule, one.detail) for one in listed if isinstance(one, Reject)}


NAMES = ["0000.mp4", "0001.mp4", "stairs.webm"]
SIDECARS = {f"{Path(name).stem}.txt": text for name, text in zip(NAMES, TEXTS, strict=True)}
LINES = "\n".join(TEXTS)
IN_VIDEOS = [f"videos/{name}" for name in NAMES]
TABLE = [{"file_name": name, "text": text} for name, text in zip(IN_VIDEOS, TEXTS, strict=True)]
SAID: dict[str, dict[str, str | bytes]] = {
    "sidecars": videos(*NAMES) | SIDECARS,
    "captions of kohya": videos(*NAMES)
    | {name.replace(".txt", ".caption"): t for name, t in SIDECARS.items()},
    "labels beside videos": videos(*IN_VIDEOS) | {f"labels/{name}": text for name, text in SIDECARS.items()},
    "prompts.txt": videos(*IN_VIDEOS) | {"prompts.txt": LINES + "\n", "videos.txt": "\n".join(IN_VIDEOS)},
    "prompt.txt": videos(*NAMES) | {"prompt.txt": LINES, "videos.txt": "\r\n".join(NAMES) + "\r\n\r\n"},
    "captions.txt": videos(*NAMES) | {"captions.txt": "\ufeff" + LINES, "videos.txt": "\n".join(NAMES)},
    "metadata.jsonl": videos(*IN_VIDEOS) | {"metadata.jsonl": "\n".join(map(json.dumps, TABLE))},
    "metadata.csv": videos(*IN_VIDEOS)
    | {
        "metadata.csv": "file_name,text\n" + "".join(f'{one["file_name"]},"{one["text"]}"\n' for one in TABLE)
    },
}


@pytest.mark.parametrize("what", SAID)
@pytest.mark.parametrize("inside", ["", "part one/"])
def test_every_caption_reaches_its_video(tmp_path: Path, what: str, inside: str) -> None:
    layout(tmp_path, {inside + name: data for name, data in SAID[what].items()})
    taken, refused = found(tmp_path)
    assert refused == {}
    assert {Path(name).name: text for name, text in taken.items()} == dict(zip(NAMES, TEXTS, strict=True))


SAYS = {"sidecars": "caption file", "prompts.txt": "list of prompts", "metadata.jsonl": "metadata file"}


@pytest.mark.parametrize(("what", "caption"), SAYS.items())
def test_a_video_says_which_file_it_was_and_what_said_its_prompt(
    tmp_path: Path, what: str, caption: str
) -> None:
    layout(tmp_path, {f"part one/{name}": data for name, data in SAID[what].items()})
    layout(tmp_path, videos("a hall/3.mp4", "a stair/4.mp4") | {"a stair/prompt.txt": "a stair"})
    entries = [one for one in folder_entries(tmp_path, allow_outside=False) if isinstance(one, Entry)]
    assert [one.file for one in entries] == [one.path.relative_to(tmp_path).as_posix() for one in entries]
    said = {one.file: one.caption for one in entries}
    assert (said.pop("a hall/3.mp4"), said.pop("a stair/4.mp4")) == ("folder name", "prompt.txt")
    assert list(said.values()) == [caption] * 3


def test_the_metadata_of_a_data_set_keeps_its_other_columns(tmp_path: Path) -> None:
    layout(tmp_path, videos("a.mp4", "b.mp4", "7.mp4"))
    table = [
        {"file_name": "a.mp4", "caption": "a hall", "fps": 8.0, "at": "x", "seed": 5, "scene_id": "s"},
        {"file_name": "b.mp4", "caption": None, "fps": 8.0},
        {"file_name": "7.mp4", "caption": "a hall", "fps": None},
    ]
    columns = {name: [row.get(name) for row in table] for name in table[0]}
    pq.write_table(pa.table(columns), tmp_path / "metadata.parquet")
    listed = list(folder_entries(tmp_path, allow_outside=False))
    one, none, other = listed
    assert isinstance(one, Entry)
    assert isinstance(other, Entry)
    assert (one.seed, one.scene_id, one.metadata) == (5, "s", {"fps": 8.0, "at": "x"})
    assert (other.seed, other.metadata) == (7, {})
    assert isinstance(none, Reject)
    assert (none.id, none.rule) == ("metadata.parquet:2", "missing-field")
    assert "has none of text, prompt, caption" in none.detail


def test_first_frames_come_a_line_each(tmp_path: Path) -> None:
    layout(tmp_path, videos(*NAMES, "i/0.png", "i/1.png") | {"prompts.txt": LINES})
    layout(tmp_path, {"videos.txt": "\n".join(NAMES), "images.txt": "i/0.png\n\ni/1.png\n"})
    listed = [one for one in folder_entries(tmp_path, allow_outside=False) if isinstance(one, Entry)]
    assert [one.first_frame and one.first_frame.name for one in listed] == ["0.png", None, "1.png"]


AMBIGUOUS: dict[str, tuple[dict[str, str | bytes], str, str]] = {
    "lines without a list": (
        {"prompt.txt": LINES},
        "ambiguous-prompt",
        "shares prompt.txt of 3 lines with 2 other videos: list the videos in videos.txt",
    ),
    "plural without a list": (
        {"prompts.txt": LINES},
        "ambiguous-prompt",
        "lies beside prompts.txt, and no videos.txt says which line is of which video",
    ),
    "one caption too few": (
        {"0000.txt": TEXTS[0], "0001.txt": TEXTS[1]},
        "no-prompt",
        "stairs.webm: has no stairs.txt, as other videos here have: add it, or prompt.txt",
    ),
    "two captions": (
        SIDECARS | {"stairs.caption": "another"},
        "ambiguous-prompt",
        "stairs.webm: has the captions stairs.txt and stairs.caption: keep one",
    ),
    "an empty caption": (SIDECARS | {"stairs.txt": " \n"}, "bad-text", "stairs.txt is empty"),
    "a caption of utf-16": (
        SIDECARS | {"stairs.txt": "a hall".encode("utf-16")},
        "not-utf-8",
        "stairs.txt is UTF-16 text: save it as UTF-8",
    ),
}


@pytest.mark.parametrize("what", AMBIGUOUS)
def test_what_could_be_several_prompts_is_never_one(tmp_path: Path, what: str) -> None:
    files, rule, reason = AMBIGUOUS[what]
    layout(tmp_path, videos(*(f"a/{name}" for name in NAMES)) | {f"a/{n}": d for n, d in files.items()})
    taken, refused = found(tmp_path)
    assert {"a/stairs.webm"} <= set(refused)
    assert refused["a/stairs.webm"][0] == rule
    assert reason in refused["a/stairs.webm"][1]
    # The others have captions of their own, or the same fault.
    assert all(text in TEXTS for text in taken.values())
    assert len(taken) + len(refused) == 3


LISTS: dict[str, tuple[dict[str, str | bytes], str, str]] = {
    "lines differ": (
        {"prompts.txt": LINES + "\nanother", "videos.txt": "\n".join(NAMES)},
        "lines-differ",
        "videos.txt: videos.txt has 3, prompts.txt has 4 lines: write one line for each video",
    ),
    "no prompts": (
        {"videos.txt": "\n".join(NAMES)},
        "ambiguous-prompt",
        "videos.txt: lists videos, and the folder holds no prompts.txt",
    ),
    "two prompts": (
        {"videos.txt": "\n".join(NAMES), "prompts.txt": LINES, "prompt.txt": LINES},
        "ambiguous-prompt",
        "holds prompt.txt and prompts.txt: keep one",
    ),
    "two lists": (
        {"videos.txt": "\n".join(NAMES), "prompts.txt": LINES, "metadata.csv": "file_name,text\na.mp4,a\n"},
        "ambiguous-prompt",
        "holds videos.txt and metadata.csv, which both list videos: keep one",
    ),
}


@pytest.mark.parametrize("what", LISTS)
def test_a_list_that_does_not_fit_is_refused_as_a_whole(tmp_path: Path, what: str) -> None:
    files, rule, reason = LISTS[what]
    layout(tmp_path, videos(*NAMES) | files)
    taken, refused = found(tmp_path)
    assert taken == {}
    assert rule in {rule for rule, _ in refused.values()}
    assert any(reason in detail for _, detail in refused.values()), refused


def test_a_video_that_a_list_leaves_out_is_refused_and_a_bad_line_costs_itself(tmp_path: Path) -> None:
    layout(tmp_path, videos(*IN_VIDEOS, "videos/more/5.mp4", "a hall/1.mp4") | {"prompts.txt": LINES})
    layout(tmp_path, {"videos.txt": f"{IN_VIDEOS[0]}\n../other.mp4\n{IN_VIDEOS[2]}"})
    taken, refused = found(tmp_path)
    assert set(taken) == {IN_VIDEOS[0], IN_VIDEOS[2]}
    assert refused.pop("videos.txt:2")[0] == "outside"
    assert set(refused) == {IN_VIDEOS[1], "videos/more/5.mp4", "a hall/1.mp4"}
    assert {rule for rule, _ in refused.values()} == {"not-listed"}
    assert "is not in videos.txt: add it there, or move it elsewhere" in refused["a hall/1.mp4"][1]


def test_a_table_that_names_no_files_is_no_list(tmp_path: Path) -> None:
    layout(tmp_path, videos("a hall/1.mp4") | {"metadata.csv": "key,value\nfps,8\n", "metadata.jsonl": ""})
    assert found(tmp_path) == ({"a hall/1.mp4": "a hall"}, {})


def test_a_folder_called_videos_is_no_prompt(tmp_path: Path) -> None:
    layout(tmp_path, videos("videos/1.mp4", "videos/2.mp4") | {"prompts.txt": LINES})
    taken, refused = found(tmp_path)
    assert taken == {}
    assert {rule for rule, _ in refused.values()} == {"no-prompt"}
    assert "lies in a folder called videos, which says no prompt" in refused["videos/1.mp4"][1]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_folders_and_files_say_the_same_in_every_writing(tmp_path: Path, form: str) -> None:
    text = unicodedata.normalize(form, "a café by the sea")
    layout(tmp_path, videos(f"{text}/1.mp4", "b/1.mp4", "c/2.mp4") | {"b/prompt.txt": f" {text}\r\n"})
    layout(tmp_path, {"c/2.txt": text})
    taken, refused = found(tmp_path)
    assert (set(taken.values()), refused) == ({"a café by the sea"}, {})


def test_seeds_are_those_of_the_names_and_stay_when_files_are_added(tmp_path: Path) -> None:
    def seeds() -> dict[str, int]:
        listed = folder_entries(tmp_path, allow_outside=False)
        return {one.where: one.seed for one in listed if isinstance(one, Entry)}

    names = ["0007.mp4", "stairs.mp4", "take 2.mp4"]
    layout(tmp_path, videos(*names) | {f"{Path(name).stem}.txt": "a hall" for name in names})
    before = seeds()
    assert before["0007.mp4"] == 7
    assert len(set(before.values())) == 3
    assert all(0 <= seed < 2**63 for seed in before.values())
    layout(tmp_path, videos("0000.mp4", "a.mp4", "b/stairs.mp4") | dict.fromkeys(["0000.txt", "a.txt"], "x"))
    layout(tmp_path, {"b/stairs.txt": "a hall"})
    after = seeds()
    assert after.items() > before.items()
    # In another folder it is another video, and may be of the same prompt.
    assert after["b/stairs.mp4"] != after["stairs.mp4"]
    assert seed_of_name(unicodedata.normalize("NFD", "é.mp4")) == seed_of_name("é.mp4")


def test_names_of_every_kind_of_video_are_looked_at(tmp_path: Path) -> None:
    wanted = ["mp4", "m4v", "mov", "webm", "mkv", "avi", "gif", "mpg", "mpeg", "ts"]
    wanted += ["wmv", "flv", "ogv", "m2ts", "3gp"]
    assert set(VIDEOS) == {f".{name}" for name in wanted}
    layout(tmp_path, videos(*(f"a hall/{number}.{name.upper()}" for number, name in enumerate(wanted))))
    taken, refused = found(tmp_path)
    assert (len(taken), refused) == (len(wanted), {})


def test_runs_in_a_source_are_passed_over_and_other_folders_are_not(tmp_path: Path) -> None:
    source = layout(tmp_path, videos("a hall/1.mp4", "other/media/2.mp4") | {"other/run.yaml": "format: x\n"})
    clip(source / "a hall" / "1.mp4", count=2)
    clip(source / "other" / "media" / "2.mp4", seed=1, count=2)
    run = Run.create_or_open(source / "runs" / "first")
    assert run_import(run, settings(source)).done == 2
    again = run_import(run, settings(source))
    assert (again.present, again.failed, rejected(run)) == (2, 0, {})
    # Whether a list above leaves them out or not.
    layout(source, {"videos.txt": "a hall/1.mp4\nother/media/2.mp4", "prompts.txt": "a hall\nmedia"})
    assert set(found(source)[1]) == set()
    with pytest.raises(UserError, match="first is a run, whose videos have their prompts in its tables"):
        found(run.path)


def test_such_folders_are_imported(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "set"
    for number, text in enumerate(TEXTS):
        clip(source / "videos" / f"{number:04d}.mp4", seed=number, count=2)
        layout(source, {f"videos/{number:04d}.txt": text})
    layout(source, videos("videos/0003.mp4") | {"videos/0003.txt": "nothing"})
    summary = run_import(run, settings(source))
    assert (summary.done, summary.failed) == (3, 1)
    assert rejected(run)["videos/0003.mp4"][0] == "empty"
    texts = {row["prompt_id"]: row["text"] for row in rows(run, "prompts")}
    assert {row["seed"]: texts[row["prompt_id"]] for row in rows(run)} == dict(enumerate(TEXTS))
    origin: dict[str, Any] = json.loads(rows(run)[0]["sampler"])["imported"]
    assert origin["source"].startswith("videos/000")
