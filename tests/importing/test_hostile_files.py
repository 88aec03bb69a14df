"""Videos, images and weights that are not what they are called: a reason each, nothing else is lost."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.importing.import_videos import run_import
from storage.errors import UserError
from storage.run import Run
from tests.importing.clips import clip, folder, patch, rejected, settings
from tests.importing.hostile import PLACE, outcome, zipped

FILES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "empty": (lambda path: path.write_bytes(b""), "empty", "has 0 bytes"),
    "zip": (lambda path: path.write_bytes(zipped()), "not-a-video", "is a zip archive, not a video"),
    "pickle": (
        lambda path: path.write_bytes(pickle.dumps({"latents": [1.0]})),
        "not-a-video",
        "is a pickle, not a video",
    ),
    "playlist": (
        lambda path: path.write_text("#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n"),
        "not-a-video",
        "is a playlist, not a video",
    ),
    "only a start of Matroska": (
        lambda path: path.write_bytes(b"\x1a\x45\xdf\xa3" * 9),
        "unreadable",
        "is truncated or damaged",
    ),
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
        "has 80x80 = 6400 pixels a frame, max_pixels is 4096: make it smaller, or raise",
    ),
    "nine hours": (
        lambda path: clip(path, 9, count=32, fps=1 / 1001),
        "too-long",
        "has 32032 seconds; max_frames is 32, max_seconds 8: cut it, or raise the limit",
    ),
    "many frames": (lambda path: clip(path, 9, count=40), "too-long", "has 40 frames; max_frames is 32"),
    "two hundred million frames": (
        lambda path: patch(clip(path, 9), b"stts", 12, 200_000_000),
        "unreadable",
        "is truncated: 9 of 200000000 frames are there",
    ),
    "fewer frames than announced": (
        lambda path: patch(clip(path, 9), b"stsz", 12, 5),
        "unreadable",
        "is truncated: 5 of 9 frames are there",
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


def test_sound_without_a_video_is_refused(run: Run, source: Path) -> None:
    import av
    import numpy as np

    with av.open(str(source / PLACE / "1.mp4"), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        sound.rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    assert outcome(run, source, f"{PLACE}/1.mp4")[0] == "not-a-video"


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
    assert "leave `link` out" in str(summary.reason)


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a second file system")
def test_links_across_file_systems_are_refused_before_anything_is_done(run: Run) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        source = folder(Path(place), prompts=1, seeds=1, first_frames=False)
        if source.stat().st_dev == run.path.stat().st_dev:
            pytest.skip("the run is on the same file system")
        with pytest.raises(UserError, match=r"different file systems, which links do not .*leave `link`"):
            run_import(run, settings(source, link=True))
        assert run_import(run, settings(source)).done == 1


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
