"""Foreign videos: limits hold before and while decoding, whatever the container says."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.errors import UserError
from storage.media.clip import clip_of
from storage.media.external_files import Refused
from storage.media.foreign_video import VideoLimits, inspect_video
from storage.media.video import read_video, write_video

LIMITS = VideoLimits(max_pixels=64 * 64, max_frames=16, max_seconds=4)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9 frames of 48x32 at 8 a second."""
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    write_video(path, np.random.default_rng(0).integers(0, 256, (9, 32, 48, 3), dtype=np.uint8), 8)
    return path


def fragmented(path: Path, count: int) -> Path:
    """A video whose header does not count its frames."""
    import av

    with av.open(str(path), "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for value in range(count):
            picture = np.full((32, 48, 3), 5 * value, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_video_is_what_its_container_says(video: Path) -> None:
    facts = inspect_video(video, LIMITS)
    assert facts.shape == (9, 32, 48)
    assert (facts.fps, facts.times, facts.plain) == (8, tuple(number / 8 for number in range(9)), True)
    assert np.array_equal(clip_of(video, facts, LIMITS, keep=3), read_video(video)[:3])
    assert np.array_equal(clip_of(video, facts, LIMITS), read_video(video))


@pytest.mark.parametrize(
    ("facts", "limits", "rule", "message"),
    [
        ({"frames": 8}, {}, "not-as-announced", "more than 8 frames decode"),
        ({"frames": 10}, {}, "unreadable", "is truncated: 9 of 10 frames decode"),
        ({"stored": (48, 48)}, {}, "not-as-announced", "frame 1 is 48x32, not 48x48"),
    ],
)
def test_a_container_that_lies_is_found_out_while_decoding(
    video: Path, facts: dict[str, Any], limits: dict[str, float], rule: str, message: str
) -> None:
    said = replace(inspect_video(video, LIMITS), **facts)
    with pytest.raises(Refused, match=message) as error:
        clip_of(video, said, replace(LIMITS, **limits))
    assert error.value.rule == rule


def test_frames_that_no_header_counts_are_counted_up_to_the_limit(tmp_path: Path) -> None:
    path = fragmented(tmp_path / "a.mp4", 9)
    facts = inspect_video(path, LIMITS)
    assert facts.frames == 9
    assert len(clip_of(path, facts, LIMITS)) == 9
    with pytest.raises(Refused, match="has over 16 frames; max_frames is 16"):
        inspect_video(fragmented(tmp_path / "b.mp4", 40), LIMITS)


@pytest.mark.parametrize("name", ["max_pixels", "max_frames", "max_seconds"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limits_are_above_nothing(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{name} must be above 0"):
        replace(LIMITS, **{name: value})


def test_a_playlist_is_not_followed_when_a_video_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mp4\n#EXT-X-ENDLIST\n")
    with pytest.raises(UserError, match="cannot be read as a video"):
        read_video(path)


def test_a_refusal_keeps_its_rule_on_the_way_from_a_worker() -> None:
    again = copy.copy(Refused("size", "is small"))
    assert (again.rule, str(again)) == ("size", "is small")
