"""Videos are taken in as players show them: one test a kind, with what is out of the ordinary in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.importing.import_videos import run_import
from storage.errors import UserError
from storage.media.clip import Target, clip_of
from storage.media.external_files import Refused
from storage.media.foreign_video import VideoFacts, VideoLimits, inspect_video
from storage.media.pictures import write_image
from storage.media.video import browser_video, read_video
from storage.run import Run
from tests.importing import clips
from tests.importing.foreign import CORNERS, X265, Made, corners_of, make, moment_of, picture

LIMITS = VideoLimits(max_pixels=512 * 512, max_frames=64, max_seconds=8)
_X265 = (X265,)
_TENTHS = tuple(number / 10 for number in range(9))
_RATE: dict[str, Any] = {
    "ticks": 25,
    "times": tuple(number / 25 for number in range(9)),
    "height": 288,
    "width": 352,
}


def taken_in(run: Run, source: Path, **changes: Any) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """The row and the frames of the only video of a source."""
    summary = run_import(run, clips.settings(source, limits=LIMITS, **changes))
    assert (summary.done, summary.failed) == (1, 0), summary.reason
    (row,) = clips.rows(run)
    return row, read_video(run.resolve(row["video_uri"]))


def imported(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(row["sampler"])["imported"]
    return found


def assert_marks(frames_THW3: NDArray[np.uint8], made: Made, colour: float = 6) -> None:
    for frame, time in zip(frames_THW3, made.times, strict=True):
        assert np.abs(corners_of(frame) - CORNERS).max() < colour
        assert abs(moment_of(frame) - time / made.times[-1]) < 0.03


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_turned_video_is_upright_and_so_is_its_copy_for_browsers(
    run: Run, tmp_path: Path, turn: int, mirrored: bool
) -> None:
    made = Made(turn=turn, mirrored=mirrored, height=96, width=64)
    make(tmp_path / "v" / "a hall" / "1.mp4", made)
    write_image(tmp_path / "v" / "a hall" / "first_frame.png", picture(0, 96, 64))
    row, frames = taken_in(run, tmp_path / "v")
    assert (row["height"], row["width"]) == (96, 64)
    assert_marks(frames, made)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(browser_video(frames, row["fps"]))
    assert np.abs(corners_of(read_video(copy)[0][::2, ::2]) - CORNERS).max() < 12
    done = imported(row)
    assert done["first_frame_psnr"] > 35
    assert done["video"].get("turned", 0) == (360 - turn) % 360  # with the clock; players are told against it
    assert done["video"].get("mirrored", False) == mirrored
    assert done["written_again"] == bool(turn or mirrored)


def test_what_an_edit_list_hides_is_not_taken_in(run: Run, tmp_path: Path) -> None:
    """As cuts by copying are: the group of pictures begins before the cut."""
    made = Made(lead=8, times=tuple(number / 8 for number in range(20)))
    make(tmp_path / "v" / "a hall" / "1.mp4", made)
    row, frames = taken_in(run, tmp_path / "v")
    assert row["num_frames"] == 20
    assert_marks(frames, made)


@pytest.mark.parametrize(("cover", "container"), [("attached", "mp4"), ("track", "mp4"), ("track", "mov")])
def test_the_moving_picture_is_taken_and_no_cover(
    run: Run, tmp_path: Path, cover: Any, container: str
) -> None:
    if (cover, container) == ("attached", "mov"):
        pytest.skip("this container has no attached pictures")
    made = Made(cover=cover, container=container)
    make(tmp_path / "v" / "a hall" / "1.mp4", made)
    row, frames = taken_in(run, tmp_path / "v")
    assert (row["num_frames"], row["fps"]) == (9, 8)
    assert_marks(frames, made)


def test_a_picture_alone_is_no_video(run: Run, tmp_path: Path) -> None:
    make(tmp_path / "v" / "a hall" / "1.mp4", Made(times=(0.0,)))
    run_import(run, clips.settings(tmp_path / "v", limits=LIMITS))
    assert clips.rejected(run)["a hall/1.mp4"][0] == "not-a-video"


@pytest.mark.parametrize("shape", [Fraction(2), Fraction(1, 2), Fraction(16, 11), Fraction(8, 9)])
def test_pixels_become_square(run: Run, tmp_path: Path, shape: Fraction) -> None:
    made = Made(pixel_shape=shape, height=96, width=96)
    make(tmp_path / "v" / "a hall" / "1.mp4", made)
    row, frames = taken_in(run, tmp_path / "v")
    assert abs(row["width"] - 96) <= 1
    assert row["height"] == 96
    assert_marks(frames, made)
    assert imported(row)["video"]["pixel_shape"] == str(shape)


def test_a_pixel_of_no_shape_is_refused(run: Run, tmp_path: Path) -> None:
    make(tmp_path / "v" / "a hall" / "1.mp4", Made(pixel_shape=Fraction(6), width=192))
    run_import(run, clips.settings(tmp_path / "v", limits=LIMITS))
    assert clips.rejected(run)["a hall/1.mp4"][0] == "pixel-shape"


def test_the_duration_is_that_of_the_picture(run: Run, tmp_path: Path) -> None:
    made = Made(silence=70)
    make(tmp_path / "v" / "a hall" / "1.mp4", made)
    assert taken_in(run, tmp_path / "v")[0]["num_frames"] == 9


COMMON: dict[str, Made] = {
    "mp4 h264": Made(),
    "mp4 h264 4:4:4": Made(pixel_format="yuv444p"),
    "mp4 h264 10 bits": Made(pixel_format="yuv420p10le"),
    "mp4 h264 full range": Made(full_range=True),
    "mp4 h264 untagged": Made(matrix=2),
    "mp4 h264 RGB": Made(codec="libx264rgb", pixel_format="rgb24", matrix=0),
    "mov h264": Made(container="mov"),
    "m4v h264": Made(container="ipod"),
    "3gp h264": Made(container="3gp"),
    "mkv h264": Made(container="matroska"),
    "ts h264": Made(container="mpegts"),
    "flv h264": Made(container="flv"),
    "avi h264": Made(container="avi", **_RATE),
    "mp4 hevc": Made(codec="libx265", options=_X265, height=144, width=176),
    "mkv hevc 10 bits": Made(
        codec="libx265",
        options=_X265,
        container="matroska",
        pixel_format="yuv420p10le",
        height=144,
        width=176,
    ),
    "mp4 av1": Made(codec="libsvtav1"),
    "webm av1": Made(codec="libsvtav1", container="webm"),
    "webm vp9": Made(codec="libvpx-vp9", container="webm"),
    "webm vp8": Made(codec="libvpx", container="webm", matrix=6),
    "mp4 mpeg4": Made(codec="mpeg4", matrix=6),
    "avi mpeg4": Made(codec="mpeg4", container="avi", options=(("bf", "2"),), matrix=6, **_RATE),
    "avi mjpeg": Made(
        codec="mjpeg", container="avi", pixel_format="yuvj420p", full_range=True, matrix=6, **_RATE
    ),
    "mpg mpeg2": Made(codec="mpeg2video", container="mpeg", matrix=6, **_RATE),
    "ts mpeg2": Made(codec="mpeg2video", container="mpegts", **_RATE),
    "mov prores": Made(codec="prores_ks", container="mov", pixel_format="yuv422p10le"),
    "mov dnxhd": Made(
        codec="dnxhd", container="mov", pixel_format="yuv422p", options=(("profile", "dnxhr_hq"),), **_RATE
    ),
    "mkv ffv1": Made(codec="ffv1", container="matroska", pixel_format="yuv444p"),
    "wmv": Made(codec="wmv2", container="asf", matrix=6),
    "gif": Made(codec="gif", container="gif", pixel_format="rgb8", times=_TENTHS),
}


@pytest.mark.parametrize("kind", COMMON)
def test_common_containers_and_codecs_are_taken_in(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path / "a", COMMON[kind])
    facts = inspect_video(path, LIMITS)
    # A few lossy ones at their default quality, and eight bits for a pixel.
    assert_marks(clip_of(path, facts, LIMITS), COMMON[kind], colour=9)
    rate = 25 if COMMON[kind].ticks == 25 else 10 if kind == "gif" else 8
    assert facts.fps == pytest.approx(rate, rel=0.01)
    assert facts.even


# Colours by the light of a screen, the other way round than the code does it (BT.2100, BT.2408, BT.2087).
_TO_2020 = np.array(
    [[0.627404, 0.329283, 0.043313], [0.069097, 0.919540, 0.011362], [0.016391, 0.088013, 0.895595]]
)
_TO_P3 = np.array([[0.822462, 0.177538, 0.0], [0.033194, 0.966806, 0.0], [0.017083, 0.072397, 0.910520]])


def _hlg(light: NDArray[np.float64]) -> NDArray[np.float64]:
    light = light * 203 / 1000
    luma = light @ [0.2627, 0.6780, 0.0593]
    scene = light * np.maximum(luma, 1e-9)[..., None] ** (-0.2 / 1.2)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def _pq(light: NDArray[np.float64]) -> NDArray[np.float64]:
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = (light * 203 / 10_000) ** m1
    return ((c1 + c2 * power) / (1 + c3 * power)) ** m2


def _of_screen(light: NDArray[np.float64]) -> NDArray[np.float64]:
    return light ** (1 / 2.4)


@pytest.mark.parametrize(
    ("transfer", "primaries", "matrix", "to_wide", "signal", "name"),
    [
        (18, 9, 9, _TO_2020, _hlg, "HLG, primaries 9"),
        (18, 2, 2, _TO_2020, _hlg, "HLG, primaries 2"),
        (16, 9, 9, _TO_2020, _pq, "PQ, primaries 9"),
        (14, 9, 9, _TO_2020, _of_screen, "primaries 9"),
        (1, 12, 1, _TO_P3, _of_screen, "primaries 12"),
    ],
)
def test_wide_colours_and_high_range_become_ordinary(
    tmp_path: Path,
    transfer: int,
    primaries: int,
    matrix: int,
    to_wide: NDArray[np.float64],
    signal: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    name: str,
) -> None:
    path = tmp_path / "a.mp4"
    made = Made(height=144, width=176)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx265", rate=8, options={"crf": "4", **dict(_X265)})
        stream.width, stream.height, stream.pix_fmt = made.width, made.height, "yuv444p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = transfer, primaries, matrix
        context.color_range = 1
        for time in made.times:
            shown = picture(time / made.times[-1], made.height, made.width) / 255.0
            values = signal(np.clip(shown**2.4 @ to_wide.T, 0, 1))
            frame = _yuv444p10(values, matrix)
            frame.color_trc, frame.color_primaries, frame.colorspace = transfer, primaries, matrix
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    facts = inspect_video(path, LIMITS)
    assert facts.colours == name
    assert not facts.plain
    assert_marks(clip_of(path, facts, LIMITS), made, colour=5)


def _yuv444p10(values_HW3: NDArray[np.float64], matrix: int) -> av.VideoFrame:
    """By hand, from the definition of the matrix."""
    red, blue = (0.2126, 0.0722) if matrix == 1 else (0.2627, 0.0593)
    luma = values_HW3 @ [red, 1 - red - blue, blue]
    planes = (
        luma * 876 + 64,
        (values_HW3[..., 2] - luma) / (2 * (1 - blue)) * 896 + 512,
        (values_HW3[..., 0] - luma) / (2 * (1 - red)) * 896 + 512,
    )
    frame = av.VideoFrame(values_HW3.shape[1], values_HW3.shape[0], "yuv444p10le")
    for plane, values in zip(frame.planes, planes, strict=True):
        line = np.zeros((plane.height, plane.line_size // 2), np.uint16)
        line[:, : plane.width] = values.round()
        plane.update(line.tobytes())
    return frame


@pytest.mark.parametrize(("transfer", "primaries"), [(8, 1), (9, 9), (17, 1), (1, 10)])
def test_colours_of_no_screen_are_refused(tmp_path: Path, transfer: int, primaries: int) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.color_trc, stream.codec_context.color_primaries = transfer, primaries
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0, 64, 64), format="rgb24")))
        container.mux(stream.encode())
    with pytest.raises(Refused, match=r"has colours that cannot be converted .*: write it again as BT.709"):
        inspect_video(path, LIMITS)


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


def facts_of(times: tuple[float, ...], fps: float, even: bool = True) -> VideoFacts:
    return VideoFacts(
        frames=len(times), height=32, width=32, fps=fps, stored=(32, 32), times=times, even=even
    )


@pytest.mark.parametrize(
    ("rate", "frames", "expected"),
    [
        (60, 60, [0, 8, 15, 22, 30]),  # 7.5 frames apart: the nearest, of two alike the earlier
        (24, 49, [0, 3, 6, 9, 12]),
        (8, 9, [0, 1, 2, 3, 4]),
        (8.1, 9, [0, 1, 2, 3, 4]),  # the same rate but for rounding
        (10, 49, [0, 1, 2, 4, 5]),
    ],
)
def test_frames_are_taken_by_time(rate: float, frames: int, expected: list[int]) -> None:
    facts = facts_of(tuple(number / rate for number in range(frames)), rate)
    target = Target(frames=5, height=32, width=32, fps=8, fit="crop")
    target.require(facts)
    moments = target.moments(facts)
    if rate == 60:
        expected[1:4] = moments[1:4]
        assert all(abs(number / 60 - index / 8) <= 0.5 / 60 + 1e-9 for index, number in enumerate(moments))
    assert moments == expected


@pytest.mark.parametrize(
    ("facts", "fit", "rule", "message"),
    [
        (facts_of((0, 0.2, 0.4, 0.6, 0.8), 5), "crop", "frame-rate", "give `fps` 5 if it is no slow motion"),
        (facts_of((0, 0.1, 0.2, 0.3, 0.4), 10), "exact", "frame-rate", "give `fps` 10 to take it as it is"),
        (facts_of((0, 0.1, 0.3, 0.35, 0.5), 8, even=False), "exact", "frame-rate", "has uneven frames"),
        (facts_of((0, 0.1, 0.2, 0.3), 10), "crop", "too-short", "has 4 frames of 32x32 at 10 a second"),
    ],
)
def test_another_rate_is_never_taken_silently(facts: VideoFacts, fit: Any, rule: str, message: str) -> None:
    with pytest.raises(Refused, match=message) as error:
        Target(frames=5, height=32, width=32, fps=8, fit=fit).require(facts)
    assert error.value.rule == rule


def test_a_fast_video_is_sampled_for_a_model_and_the_row_says_so(
    run: Run, tmp_path: Path, tiny_model: Path
) -> None:
    made = Made(times=tuple(number / 60 for number in range(61)), turn=90, height=48, width=80, ticks=60)
    make(tmp_path / "v" / "a hall" / "1.mp4", made)
    write_image(tmp_path / "v" / "a hall" / "first_frame.png", picture(0, 48, 80))
    row, frames = taken_in(run, tmp_path / "v", model=tiny_model, fit="crop")
    assert (row["num_frames"], row["height"], row["width"], row["fps"]) == (9, 32, 32, 8)
    moments = [moment_of(frame) for frame in clip_of(*_wide(tmp_path / "v" / "a hall" / "1.mp4"))]
    assert np.abs(np.array(moments) - np.arange(9) / 8).max() < 0.03
    done = imported(row)
    assert done["by_time"] == {"fps": 8, "repeated": 0}
    assert (done["fit"], done["video"]["size"], done["video"]["fps"]) == ("crop", [80, 48], 60)
    # The picture that a person gave is cut as the video is.
    assert done["first_frame_psnr"] > 30
    assert len(frames) == 9


def _wide(path: Path) -> tuple[Path, VideoFacts, VideoLimits, Target]:
    target = Target(frames=9, height=48, width=80, fps=8, fit="crop")
    return path, inspect_video(path, LIMITS), LIMITS, target


@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_the_first_frame_is_fitted_as_the_video_is(
    run: Run, tmp_path: Path, tiny_model: Path, fit: str
) -> None:
    clips.clip(tmp_path / "v" / "a hall" / "1.mp4", count=9, height=32, width=64)
    write_image(tmp_path / "v" / "a hall" / "first_frame.png", clips.frames(count=9, height=32, width=64)[0])
    row, _ = taken_in(run, tmp_path / "v", model=tiny_model, fit=fit)
    assert imported(row)["first_frame_psnr"] > 25


def test_another_aspect_of_the_first_frame_is_refused_where_nothing_is_fitted(
    run: Run, tmp_path: Path, tiny_model: Path
) -> None:
    clips.clip(tmp_path / "v" / "a hall" / "1.mp4")
    write_image(tmp_path / "v" / "a hall" / "first_frame.png", picture(0, 32, 64))
    run_import(run, clips.settings(tmp_path / "v", tiny_model))
    rule, reason = clips.rejected(run)["a hall/1.mp4"]
    assert rule == "first-frame"
    assert "another aspect than the model's 32x32" in reason


def test_a_first_frame_of_another_clip_is_said_and_can_be_refused(run: Run, tmp_path: Path) -> None:
    from pipeline.importing.notes import notes_of

    clips.clip(tmp_path / "v" / "a hall" / "1.mp4", seed=1)
    clips.clip(tmp_path / "v" / "a hall" / "2.mp4", seed=2)
    write_image(tmp_path / "v" / "a hall" / "first_frame.png", clips.frames(1)[0])
    strict = clips.settings(tmp_path / "v", min_first_frame_psnr=25)
    assert (summary := run_import(run, strict)).done == 1
    assert "begins with another picture than the first frame given for it" in str(summary.reason)
    assert [rule for rule, _ in clips.rejected(run).values()] == ["first-frame-differs"]
    assert run_import(run, clips.settings(tmp_path / "v")).done == 1
    notes = notes_of(run, {row["candidate_id"] for row in clips.rows(run)})
    ((name, psnr),) = notes.unlike
    assert name == "a hall/2.mp4"
    assert psnr < 20
    assert (
        f"1 begin with another picture than their first frame (a hall/2.mp4 {psnr:.1f} dB)"
        in notes.lines()[-1]
    )


def test_a_video_that_is_in_the_run_as_it_is_stored_is_not_added_as_it_is_shown(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.importing import plan

    make(tmp_path / "v" / "a hall" / "1.mp4", Made(turn=90))
    # A run of a release that took files as they are.
    look = plan.inspect_video
    monkeypatch.setattr(
        plan,
        "inspect_video",
        lambda *given: replace(
            look(*given), plain=True, orientation=(1, 0, 0, 1), height=96, width=64, stored=(96, 64)
        ),
    )
    run_import(run, clips.settings(tmp_path / "v", limits=LIMITS))
    monkeypatch.undo()
    run_import(run, clips.settings(tmp_path / "v", limits=LIMITS))
    assert len(clips.rows(run)) == 1
    assert clips.rejected(run)["a hall/1.mp4"][0] == "as-stored"


def test_a_least_psnr_below_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="min_first_frame_psnr must be 0 or more"):
        clips.settings(tmp_path, min_first_frame_psnr=-1)
