"""What the pictures of a clip say alone: how they move, how sharp and how coloured they stay.

Legend: T frames, H W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.evaluation.judges.judge import JudgedClip, Measure

if TYPE_CHECKING:
    from torch import Tensor


class PictureJudge:
    """Measures of pictures, without any network."""

    name = "pictures"
    version = "1"
    license = "Apache-2.0"
    measures: tuple[Measure, ...] = (
        Measure(name="displacement", better=0, about="median way of a match from the first frame, in pixels"),
        Measure(name="image_motion", better=0, about="change between frames over the gradient of the first"),
        Measure(name="sharpness", better=0, about="gradient of later frames as a share of the first frame's"),
        Measure(
            name="saturation", better=0, about="saturation of later frames as a share of the first frame's"
        ),
        Measure(name="roughness", better=-1, about="raggedness of the motion between frames, in pixels"),
    )

    def setup(self, device: str) -> None:
        """Nothing to load."""

    def measure(self, clip: JudgedClip) -> dict[str, float]:
        """The measures of a clip of any kind."""
        from rewards.measures.quality import image_motion, roughness, saturation, sharpness

        frames_THW3 = clip.frames_THW3
        return {
            "displacement": displacement(frames_THW3),
            "image_motion": image_motion(frames_THW3),
            "sharpness": sharpness(frames_THW3),
            "saturation": saturation(frames_THW3),
            "roughness": roughness(frames_THW3),
        }


def displacement(frames_THW3: Tensor) -> float:
    """How far the picture has gone from the first frame: median over matches, mean over the later frames.

    In pixels; NaN where nothing can be matched. Unlike the path of an estimated camera it counts no jitter.
    """
    import torch

    from rewards.matching.matches import dense_matches

    ways = []
    for later_HW3 in frames_THW3[1:]:
        here_N2, there_N2 = dense_matches(frames_THW3[0], later_HW3)
        ways.append((there_N2 - here_N2).norm(dim=1).nanmedian())
    return float(torch.stack(ways).nanmean()) if ways else float("nan")
