"""Sources that lie, leave their folder or break rules: one clear reason each, and nothing else is lost."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.import_videos import dry_run, run_import
from storage.errors import UserError
from storage.run import Run
from tests.importing.clips import clip, folder, frames, patch, rejected, rows, settings


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create_or_open(tmp_path / "run")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """One good video, whose import every test asks for too."""
    return folder(tmp_path / "videos", prompts=1, seeds=1, first_frames=False)


PLACE = "a quiet hall 0"


def zipped() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("data.pkl", "x" * 100)
    return data.getvalue()


def outcome(run: Run, source: Path, where: str, **changes: Any) -> tuple[str, str]:
    """Import; everything but `where` is taken in. Returns its rule and reason."""
    summary = run_import(run, settings(source, **changes))
    assert (summary.done, summary.failed) == (1, 1), summary
    assert [row["seed"] for row in rows(run)] == [0]
    left = {path.stem for path in (run.path / "media" / "videos").iterdir()}
    assert left == {row["candidate_id"] for row in rows(run)}
    found = rejected(run)
    ids = {row["id"]: row for row in rows(run, "rejects")}
    assert all("\n" not in row["detail"] for row in ids.values())
    match = [value for value in found.values() if value[1].startswith(f"{where}: ")]
    assert len(match) == 1, found
    return match[0]


FILES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "empty": (lambda path: path.write_bytes(b""), "empty", "has 0 bytes"),
    "zip": (lambda path: path.write_bytes(zipped()), "not-a-video", "is a zip archive, not an mp4 video"),
    "pickle": (
        lambda path: path.write_bytes(pickle.dumps({"latents": [1.0]})),
        "not-a-video",
        "is a pickle, not an mp4 video",
    ),
    "playlist": (
        lambda path: path.write_text("#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n"),
        "not-a-video",
        "is a playlist, not an mp4",
    ),
    "matroska": (lambda path: path.write_bytes(b"\x1a\x45\xdf\xa3" * 9), "not-a-video", "is a Matroska"),
    "only a start": (
        lambda path: path.write_bytes(b"\0\0\0\x18ftypisom" + b"\0" * 99),
        "unreadable",
        "is truncated or damaged",
    ),
    "cut": (
        lambda path: clip(path, 9) and path.write_bytes(path.read_bytes()[:-1500]),
        "unreadable",
        "is truncated",
    ),
    "large": (
        lambda path: clip(path, 9, height=80, width=80),
        "too-large",
        "has 80x80 = 6400 pixels a frame, --max-pixels is 4096: make it smaller, or raise",
    ),
    "nine hours": (
        lambda path: clip(path, 9, count=32, fps=1 / 1001),
        "too-long",
        "has 32032 seconds; --max-frames is 32, --max-seconds 8: cut it, or raise the limit",
    ),
    "many frames": (lambda path: clip(path, 9, count=40), "too-long", "has 40 frames; --max-frames is 32"),
    "two hundred million frames": (
        lambda path: patch(clip(path, 9), b"stts", 12, 200_000_000),
        "too-long",
        "has 200000000 frames",
    ),
    "fewer frames than announced": (
        lambda path: patch(clip(path, 9), b"stsz", 12, 5),
        "unreadable",
        "is truncated: 5 of 9 frames decode",
    ),
    "a pipe": (os.mkfifo, "not-a-file", "is not a regular file"),
    "a broken link": (lambda path: path.symlink_to("nothing.mp4"), "missing", "does not exist"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_bad_file_is_named_with_its_reason(run: Run, source: Path, what: str) -> None:
    spoil, rule, reason = FILES[what]
    spoil(source / PLACE / "1.mp4")
    found = outcome(run, source, f"{PLACE}/1.mp4")
    assert found[0] == rule
    assert reason in found[1]
    # It is tried again, and refused again, as long as it is there.
    again = run_import(run, settings(source))
    assert (again.present, again.done, again.failed) == (1, 0, 1)


def test_sound_without_a_video_and_other_kinds_of_video_are_refused(run: Run, source: Path) -> None:
    import av
    import numpy as np

    with av.open(str(source / PLACE / "1.mp4"), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        sound.rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    assert outcome(run, source, f"{PLACE}/1.mp4")[0] == "not-a-video"
    (source / PLACE / "1.mp4").rename(source / PLACE / "1.webm")
    run_import(run, settings(source))
    assert "is a .webm file: convert it to mp4" in rejected(run)[f"{PLACE}/1.webm"][1]


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


def manifest(source: Path, *others: dict[str, Any], name: str = "list.jsonl") -> Path:
    """A manifest beside the videos: the good one, then others."""
    good = {"prompt": "a hall", "seed": 0, "path": f"{PLACE}/0.mp4"}
    path = source / name
    path.write_text("\n".join(json.dumps(one) for one in [good, *others]))
    return path


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
        from storage.media import write_image

        one["path"] = f"{PLACE}/0.mp4"
        one["prompt"] = "another hall"
        write_image(outside.with_suffix(".png"), frames()[0])
        one["first_frame"] = "../outside/1.png"
    path = manifest(source, one)
    rule, reason = outcome(run, path, "list.jsonl:2")
    assert rule == "outside"
    assert f"leads out of {source}: move the file there, or give --allow-outside" in reason
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


LINES: dict[str, tuple[bytes, str, str]] = {
    "malformed": (b'{"prompt": ', "malformed", "is malformed JSON"),
    "no object": (b"[1, 2]", "malformed", "is a JSON list, no object"),
    "not utf-8": (b'{"prompt": "pr\xe8s", "seed": 1, "path": "x"}', "not-utf-8", "is not UTF-8 text"),
    "surrogate": (rb'{"prompt": "\ud800", "seed": 1, "path": "x"}', "not-utf-8", "prompt is not UTF-8"),
    "nul": (rb'{"prompt": "a", "seed": 1, "path": "a\u0000.mp4"}', "bad-path", "holds a NUL byte"),
    "nul in a prompt": (rb'{"prompt": "a\u0000b", "seed": 1, "path": "x"}', "bad-text", "holds a NUL byte"),
    "deep": (b"[" * 100_000, "malformed", "is malformed JSON"),
    "long": (b'{"prompt": "' + b"x" * 2**20 + b'"}', "malformed", "is a line of over 1048576 bytes"),
    "no seed": (b'{"prompt": "a", "path": "x"}', "missing-field", "has no seed"),
    "seed of a kind": (b'{"prompt": "a", "seed": true, "path": "x"}', "bad-seed", "seed True is no"),
    "huge seed": (b'{"prompt": "a", "seed": 1e300, "path": "x"}', "bad-seed", "is no integer"),
    "number as path": (b'{"prompt": "a", "seed": 1, "path": 7}', "bad-field", "path must be text, got int"),
    "unknown": (b'{"prompt": "a", "seed": 1, "pth": "x"}', "unknown-field", "the unknown field 'pth'"),
    "split": (b'{"prompt": "a", "seed": 1, "path": "x", "split": "dev"}', "bad-field", "one of train, val"),
    "metadata": (b'{"prompt": "a", "seed": 1, "path": "x", "metadata": [1]}', "bad-field", "a JSON object"),
    "not finite": (
        b'{"prompt": "a", "seed": 1, "path": "x", "metadata": {"a": NaN}}',
        "bad-field",
        "metadata is no plain JSON",
    ),
    "blank": (b'{"prompt": "  ", "seed": 1, "path": "x"}', "bad-text", "prompt is empty"),
    "long prompt": (
        b'{"prompt": "' + b"x" * 30_000 + b'", "seed": 1, "path": "x"}',
        "bad-text",
        "has 30000 characters",
    ),
    "missing": (b'{"prompt": "a", "seed": 1, "path": "none.mp4"}', "missing", "does not exist"),
    "no image": (
        b'{"prompt": "a", "seed": 1, "path": "a quiet hall 0/0.mp4", "first_frame": "list.jsonl"}',
        "first-frame",
        "cannot be read as an image",
    ),
}


@pytest.mark.parametrize("what", LINES)
def test_a_bad_line_of_json_costs_itself(run: Run, source: Path, what: str) -> None:
    line, rule, reason = LINES[what]
    path = manifest(source)
    path.write_bytes(line + b"\n\n" + path.read_bytes() + b"\n")
    found = outcome(run, path, "list.jsonl:1")
    assert found[0] == rule
    assert reason in found[1]


GOOD = f"a hall,0,{PLACE}/0.mp4\n".encode()
CELLS: dict[str, tuple[bytes, str, str]] = {
    "nul": (b"a hall,1,a\0b.mp4\n", "malformed", "holds a NUL byte in path"),
    "short": (b"a hall,1\n", "malformed", "has 2 cells, the header has 3: quote commas"),
    "long": (b"a hall, with a door,1,x.mp4\n", "malformed", "has 4 cells"),
    "not utf-8": (b"pr\xe8s,1,x.mp4\n", "not-utf-8", "prompt is not UTF-8"),
    "empty": (b",1,x.mp4\n", "missing-field", "has no prompt"),
}


@pytest.mark.parametrize("what", CELLS)
def test_a_bad_row_of_csv_costs_itself(run: Run, source: Path, what: str) -> None:
    line, rule, reason = CELLS[what]
    path = source / "list.csv"
    path.write_bytes(b"prompt,seed,path\n" + line + GOOD)
    found = outcome(run, path, "list.csv:2")
    assert found[0] == rule
    assert reason in found[1]


def test_an_open_quote_says_that_the_rest_was_not_read(run: Run, source: Path) -> None:
    path = source / "list.csv"
    path.write_bytes(b"prompt,seed,path\n" + GOOD + b'"a hall,1,x.mp4\na hall,2,y.mp4\n')
    rule, reason = outcome(run, path, "list.csv:3")
    assert rule == "malformed"
    assert "what follows was not read: correct it" in reason


WHOLE: dict[str, tuple[str, bytes, str]] = {
    "missing column": ("a.csv", b"prompt,path\na,b\n", "has no column 'seed', its columns are prompt, path"),
    "unknown column": ("a.csv", b"prompt,seed,path,model\n", "has the unknown column 'model'; required"),
    "column twice": ("a.csv", b"prompt,seed,path,path\n", "has a column twice"),
    "nothing": ("a.csv", b"", "has no column 'prompt', its columns are none"),
    "utf-16": ("a.csv", "prompt,seed,path\n".encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
    "no parquet": ("a.parquet", b"PAR1 or not", "is not a readable Parquet file"),
    "zip as parquet": ("a.parquet", zipped(), "is not a readable Parquet file"),
    "no rows": ("a.jsonl", b"\n\n", "holds no videos"),
    "text": ("a.txt", b"a", "is no manifest that is known: give a folder, or one of .jsonl, .csv, .parquet"),
}


@pytest.mark.parametrize("what", WHOLE)
def test_a_manifest_that_says_nothing_is_one_error(run: Run, source: Path, what: str) -> None:
    name, data, message = WHOLE[what]
    (source / name).write_bytes(data)
    with pytest.raises(UserError, match="(?s)" + message.replace("(", r"\(")):
        run_import(run, settings(source / name))
    assert not rows(run)


def test_parquet_rows_that_are_null_or_not_utf_8_cost_themselves(run: Run, source: Path) -> None:
    raw = pa.array([b"a hall", b"pr\xe8s", None], pa.binary())
    prompts = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    paths = pa.array([f"{PLACE}/0.mp4"] * 3)
    path = source / "list.parquet"
    pq.write_table(pa.table({"prompt": prompts, "seed": [0.0, 1.0, None], "path": paths}), path)
    summary = run_import(run, settings(path))
    assert (summary.done, summary.failed) == (1, 2)
    found = rejected(run)
    assert found["list.parquet:2"][0] == "not-utf-8"
    assert found["list.parquet:3"][0] == "missing-field"
    pq.write_table(pa.table({"text": ["a"]}), path)
    with pytest.raises(UserError, match="has no column 'prompt'"):
        run_import(run, settings(path))


def test_sources_that_are_not_there_or_empty(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist: give a folder of videos or a manifest"):
        run_import(run, settings(tmp_path / "none"))
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match=r"holds no videos: a folder has PROMPT/SEED.mp4"):
        run_import(run, settings(tmp_path / "bare"))


@pytest.mark.parametrize("data", [zipped(), pickle.dumps(1), b"", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_a_first_frame_that_is_no_image_costs_its_prompt(run: Run, source: Path, data: bytes) -> None:
    clip(source / "other" / "1.mp4", seed=5)
    (source / "other" / "first_frame.png").write_bytes(data)
    rule, reason = outcome(run, source, "other/1.mp4")
    assert rule == "first-frame"
    assert "cannot be read as an image" in reason


@pytest.mark.parametrize(
    ("side", "message"),
    [(65, "has 65x65 pixels, more than 4096"), (20_000, "cannot be read as an image")],
)
def test_a_first_frame_of_too_many_pixels_is_refused_undecoded(
    run: Run, source: Path, side: int, message: str
) -> None:
    from PIL import Image

    clip(source / "other" / "1.mp4", seed=5)
    Image.new("1", (side, side)).save(source / "other" / "first_frame.png")
    rule, reason = outcome(run, source, "other/1.mp4")
    assert rule == "first-frame"
    assert message in reason


def test_a_file_that_changes_on_the_way_is_not_taken_in(
    run: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.importing import plan

    clip(source / PLACE / "1.mp4", seed=5)
    digest = plan.file_sha256

    def and_then_changed(path: Path) -> str:
        found = digest(path)
        if path.name == "1.mp4":
            clip(path, seed=6)
        return found

    monkeypatch.setattr(plan, "file_sha256", and_then_changed)
    for link in (False, True):
        summary = run_import(run, settings(source, link=link))
        assert (summary.done + summary.present, summary.failed) == (1, 1)
        assert {rule for rule, _ in rejected(run).values()} == {"changed"}
        assert len(list((run.path / "media" / "videos").iterdir())) == 1
        clip(source / PLACE / "1.mp4", seed=5)


def test_a_link_that_cannot_be_made_says_to_copy(
    run: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def across(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", across)
    summary = run_import(run, settings(source, link=True))
    assert (summary.done, summary.failed) == (0, 1)
    assert "cannot be linked into" in str(summary.reason)
    assert "leave --link out" in str(summary.reason)


@pytest.mark.parametrize("data", [zipped(), pickle.dumps({"weight": 1}), b""])
def test_weights_disguised_as_safetensors_are_one_line(
    run: Run, tmp_path: Path, tiny_model: Path, data: bytes
) -> None:
    import shutil

    source = folder(tmp_path / "videos", prompts=1, seeds=1)
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (model / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(data)
    with pytest.raises(UserError, match=r"model 'model' in .* does not load: .*get its files again"):
        run_import(run, settings(source, model))


def test_a_folder_with_pickled_weights_alone_is_refused(run: Run, tmp_path: Path, tiny_model: Path) -> None:
    import shutil

    import torch

    source = folder(tmp_path / "videos", prompts=1, seeds=1)
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (model / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, model / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match=r"model 'model' in .* does not load"):
        run_import(run, settings(source, model))


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    junk=st.lists(
        st.one_of(
            st.binary(max_size=80),
            st.dictionaries(
                st.sampled_from(
                    ["prompt", "seed", "path", "first_frame", "scene_id", "split", "metadata", "x"]
                ),
                st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
            ).map(lambda value: json.dumps(value).encode()),
        ),
        max_size=6,
    )
)
def test_whatever_stands_between_them_two_good_lines_are_found(
    junk: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = tmp_path_factory.mktemp("videos")
    clip(source / PLACE / "0.mp4", count=2)
    lines = [
        json.dumps({"prompt": text, "seed": 2**60, "path": f"{PLACE}/0.mp4"}).encode()
        for text in ("first good hall", "last good hall")
    ]
    between = [line.replace(b"\n", b" ") for line in junk]
    path = source / "list.jsonl"
    path.write_bytes(b"\n".join([lines[0], *between, lines[1]]))
    plan = dry_run(None, settings(path))
    assert {"first good hall", "last good hall"} <= {task.prompt.text for task in plan.tasks}
    named = {one.id for one in plan.rejects}
    blank = sum(not line.strip(b" \t\r\n\xef\xbb\xbf") for line in between)
    assert len(named) + plan.wanted == 2 + len(between) - blank
