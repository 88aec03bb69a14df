"""The columns of the paper's tables by a geometry model that did not make the training reward.

PSNR, SSIM and LPIPS between every frame and its reprojection from the others, MVCS, 3DCS and camera motion
(VideoGPA, arXiv 2601.23286, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.evaluation.judges.judge import JudgedClip, Measure
from rewards.errors import RewardError
from rewards.geometry.backends import describe_backend, load_backend
from rewards.geometry.reconstruction import GeometryInfo
from rewards.measures.backbones import BACKBONES, require_backbone
from rewards.options import PerceptualName, ReprojectionOptions
from rewards.table import reward_version

if TYPE_CHECKING:
    from rewards.scoring import ReprojectionReward

_CODE = "1"
_PSNR = Measure(
    name="reprojection_psnr",
    better=1,
    about="PSNR of a frame's reprojection from the others in dB, by the judge",
    ratio=False,
)
_SSIM = Measure(name="reprojection_ssim", better=1, about="SSIM of the same")
_LPIPS = Measure(name="reprojection_lpips", better=-1, about="LPIPS of the same")
_MVCS = Measure(name="mvcs", better=1, about="agreement of adjacent depth maps (MVCS), by the judge")
_ERROR = Measure(name="error_3dcs", better=-1, about="reprojection error E (3DCS), by the judge")
_MOTION = Measure(name="motion", better=0, about="camera motion in units of scene depth, by the judge")


class GeometryJudge:
    """Judges clips by the geometry backend of that name, with the reprojection reward's own defaults.

    LPIPS is measured, and is part of 3DCS, when its backbone is on this machine; `note` says so when it is
    not. frames: how many of a clip the model sees. Raises RewardError when weights are missing.
    """

    def __init__(self, geometry: str, model: str | None = None, frames: int = 10) -> None:
        self.geometry: GeometryInfo = describe_backend(geometry, model=model, revision=None)
        self._backend, self._model = geometry, model
        perceptual, self.note = find_lpips()
        self._options = ReprojectionOptions(frames=frames, perceptual=perceptual)
        self.name = geometry
        self.license = self.geometry.license
        self.version = f"{_CODE}-{reward_version('reprojection', self._options, self.geometry)}"
        lpips = () if perceptual == "none" else (_LPIPS,)
        self.measures = (_PSNR, _SSIM, *lpips, _MVCS, _ERROR, _MOTION)
        self._reward: ReprojectionReward | None = None

    def setup(self, device: str) -> None:
        """Load the geometry model and the perceptual net."""
        from rewards.scoring import ReprojectionReward

        backend = load_backend(self._backend, model=self._model, revision=None, device=device)
        self._reward = ReprojectionReward(
            geometry=backend, options=self._options, version=self.version, device=device
        )

    def measure(self, clip: JudgedClip) -> dict[str, float]:
        """The columns of a clip; NaN for all that need a reprojection where there is none."""
        assert self._reward is not None, "setup comes first"
        result = self._reward.score(clip.frames_THW3)
        found = {
            "reprojection_psnr": result.psnr,
            "reprojection_ssim": result.ssim,
            "reprojection_lpips": result.perceptual,
            "mvcs": result.mvcs,
            "error_3dcs": None if result.value is None else -result.value,
            "motion": result.motion,
        }
        known = {one.name for one in self.measures}
        return {name: math.nan if value is None else value for name, value in found.items() if name in known}


def find_lpips(require: Callable[[str], None] = require_backbone) -> tuple[PerceptualName, str | None]:
    """The LPIPS whose backbone is on this machine ("none" without), and what to say when there is none."""
    names: tuple[PerceptualName, ...] = ("lpips-vgg", "lpips-alex")
    for name in names:
        try:
            require(name)
        except RewardError:
            continue
        return name, None
    files = " nor ".join(backbone.file for backbone in BACKBONES.values())
    return "none", f"no LPIPS column, and 3DCS without its LPIPS term: torch's cache holds neither {files}"
