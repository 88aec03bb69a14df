"""Which frames of a clip are looked at."""

from __future__ import annotations


def select_frames(num_frames: int, count: int) -> list[int]:
    """Indices of `count` frames spread over the clip, both ends included; every frame if there are no more.

    linspace(0, num_frames - 1, count) truncated to int (VideoGPA, arXiv 2601.23286), in exact integer
    arithmetic, so that the choice cannot depend on rounding. Raises ValueError for num_frames < 0 or count
    < 2.
    """
    if num_frames < 0:
        raise ValueError(f"num_frames must be >= 0, got {num_frames}")
    if count < 2:
        raise ValueError(f"count must be >= 2 because an error between views needs two, got {count}")
    if num_frames <= count:
        return list(range(num_frames))
    return [index * (num_frames - 1) // (count - 1) for index in range(count)]
