"""Videos that are damaged, cut off, or show no whole picture are found and refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.importing.import_videos import run_import
from storage.media.clip import clip_of
from storage.media.external_files import Refused
from storage.media.foreign_video import inspect_video
from storage.run import Run
from tests.importing import clips
from tests.importing.foreign import CORNERS, Made, corners_of, make, moment_of, picture
from tests.importing.shown import COMMON, LIMITS, RATE, SIXTY


def test_halves_of_pictures_are_refused(tmp_path: Path) -> None:
    options = (("flags", "+ilme+ildct"), ("x264-params", "interlaced=1"))
    path = make(tmp_path / "a.mp4", Made(options=options))
    with pytest.raises(Refused, match="two half pictures") as error:
        clip_of(path, inspect_video(path, LIMITS), LIMITS)
    assert error.value.rule == "interlaced"


@pytest.mark.parametrize(
    ("codec", "container", "pixel_format"),
    [("libvpx-vp9", "webm", "yuva420p"), ("prores_ks", "mov", "yuva444p10le"), ("qtrle", "mov", "argb")],
)
def test_what_shows_through_is_refused(tmp_path: Path, codec: str, container: str, pixel_format: str) -> None:
    path = tmp_path / "a"
    for alpha in (128, 255):
        with av.open(str(path), "w", format=container) as output:
            stream = output.add_stream(codec, rate=8)
            stream.width, stream.height, stream.pix_fmt = 64, 64, pixel_format
            pixels = np.dstack([picture(0, 64, 64), np.full((64, 64), alpha, np.uint8)])
            for _ in range(3):
                output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
            output.mux(stream.encode())
        if alpha == 255 and codec != "libvpx-vp9":
            assert len(clip_of(path, inspect_video(path, LIMITS), LIMITS)) == 3
            continue
        with pytest.raises(Refused, match="transparent in parts") as error:
            clip_of(path, inspect_video(path, LIMITS), LIMITS)
        assert error.value.rule == "transparent"


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", ()),
        # Decoders with a thread for every slice lose what the threads find.
        ("libx264", (("tune", "zerolatency"), ("x264-params", "sliced-threads=1:threads=4"))),
        ("libx264", (("x264-params", "cabac=0"),)),
        ("libx265", (("x265-params", "log-level=none:pools=none:frame-threads=1"),)),
        ("mpeg4", ()),
        ("libsvtav1", ()),
    ],
)
def test_random_bytes_in_the_middle_are_found(tmp_path: Path, codec: str, options: Any) -> None:
    """Of a picture of usual size; small ones may decode to another picture without any error."""
    path = make(tmp_path / "a.mp4", Made(codec=codec, options=options, height=480, width=848))
    limits = replace(LIMITS, max_pixels=480 * 848)
    facts = inspect_video(path, limits)
    clip_of(path, facts, limits)
    whole = path.read_bytes()
    with av.open(str(path)) as container:
        packets = [(one.pos, one.size) for one in container.demux(video=0) if one.size]
    position, size = packets[len(packets) // 3]
    last = packets[-1][0] + packets[-1][1]
    noise = np.random.default_rng(0).bytes(min(4000, last - position - size))
    start = position + size // 3
    path.write_bytes(whole[:start] + noise + whole[start + len(noise) :])
    with pytest.raises(Refused) as error:
        clip_of(path, inspect_video(path, limits), limits)
    assert error.value.rule == "unreadable"


@pytest.mark.parametrize(
    "kind", ["mkv h264", "webm vp9", "webm vp8", "mkv ffv1", "avi mpeg4", "flv h264", "gif"]
)
def test_a_file_that_ends_before_its_header_says_is_refused(tmp_path: Path, kind: str) -> None:
    rate = {"ticks": 25} if COMMON[kind].ticks == 25 else {}
    times = tuple(number / (25 if rate else 10) for number in range(60))
    path = make(tmp_path / "a", replace(COMMON[kind], times=times, **rate))
    inspect_video(path, LIMITS)
    whole = path.read_bytes()
    for share in (0.4, 0.7, 0.85):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(Refused) as error:
            clip_of(path, inspect_video(path, LIMITS), LIMITS)
        assert error.value.rule == "unreadable"


def copied(source: Path, target: Path, container: str, first: int, edit_list: bool = False) -> Path:
    """The packets of a video from one on, as cuts by copying take them."""
    with av.open(str(source)) as given, av.open(str(target), "w", format=container) as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        packets = [one for one in given.demux(video=0) if one.size][first:]
        start = min(one.pts for one in packets) if not edit_list else packets[0].pts
        for packet in packets:
            packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, stream
            made.mux(packet)
    return target


@pytest.mark.parametrize(
    ("codec", "container"), [("mpeg4", "avi"), ("wmv2", "asf"), ("flv", "flv"), ("libx264", "mp4")]
)
def test_a_start_between_key_frames_is_refused(tmp_path: Path, codec: str, container: str) -> None:
    options = (("g", "60"), ("bf", "0"))
    made = Made(codec=codec, container=container, options=options, **RATE | {"times": SIXTY})
    path = copied(make(tmp_path / "a", made), tmp_path / "b", container, 20)
    with pytest.raises(Refused) as error:
        clip_of(path, inspect_video(path, LIMITS), LIMITS)
    assert error.value.rule == "unreadable"


@pytest.mark.parametrize(("codec", "container"), [("libx264", "mp4"), ("mpeg2video", "mpegts")])
def test_frames_that_lean_on_what_was_cut_off_are_left_out(
    tmp_path: Path, codec: str, container: str
) -> None:
    """An open group of pictures: frames are shown before its key frame that need the group before."""
    options = (("bf", "2"), ("g", "12"), ("sc_threshold", "0"), ("flags", "-cgop"))
    if codec == "libx264":
        options = (("x264-params", "open-gop=1:keyint=12:min-keyint=12:bframes=2:scenecut=0:b-adapt=0"),)
    made = Made(codec=codec, container=container, options=options, **RATE | {"times": SIXTY})
    source = make(tmp_path / "a", made)
    with av.open(str(source)) as given:
        keys = [number for number, one in enumerate(given.demux(video=0)) if one.is_keyframe and one.size]
    path = copied(source, tmp_path / "b", container, keys[2], edit_list=container == "mp4")
    facts = inspect_video(path, LIMITS)
    frames = clip_of(path, facts, LIMITS)
    assert facts.leads > 0
    moments = np.array([moment_of(frame) for frame in frames]) * 59
    assert np.abs(moments - np.arange(round(moments[0]), 60)).max() < 0.6
    assert np.abs(corners_of(frames[0]) - CORNERS).max() < 12


def test_a_frame_that_shows_through_later_is_found_without_a_model(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "v" / "a hall" / "1.mov"
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w", format="mov") as output:
        stream = output.add_stream("png", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "rgba"
        for number in range(6):
            alpha = np.full((64, 64), 0 if number == 4 else 255, np.uint8)
            pixels = np.dstack([picture(0, 64, 64), alpha])
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        output.mux(stream.encode())
    run_import(run, clips.settings(tmp_path / "v", limits=LIMITS))
    assert {rule for rule, _ in clips.rejected(run).values()} == {"transparent"}


@pytest.mark.parametrize(("height", "width"), [(2, 64), (64, 2), (14, 14)])
def test_tiny_pictures_are_refused(tmp_path: Path, height: int, width: int) -> None:
    path = tmp_path / "a.mov"
    with av.open(str(path), "w", format="mov") as output:
        stream = output.add_stream("png", rate=8)
        stream.width, stream.height, stream.pix_fmt = width, height, "rgb24"
        for _ in range(3):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0)[:height, :width].copy(), "rgb24")))
        output.mux(stream.encode())
    with pytest.raises(Refused, match="at least 16 a side are needed") as error:
        inspect_video(path, LIMITS)
    assert error.value.rule == "too-small"
