"""VideoReward as a judge of `gpa evaluate`: what people would say of picture, motion and prompt following."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import torch

from pipeline.evaluation.judges.judge import JudgedClip, Measure
from rewards.videoreward.network import VideoRewardNetwork, Words, collate, prepare, refusal
from rewards.videoreward.settings import DIMENSIONS
from rewards.videoreward.weights import VideoRewardWeights, find_weights, load_network

log = logging.getLogger(__name__)

_CODE = "1"  # raised when the same weights give other values
_ABOUT = ("visual quality", "motion quality", "alignment with the text")


@dataclass(kw_only=True)
class VideoRewardJudge:
    """Rewards by VideoReward, each in standard deviations from the mean of its own data, and their sum.

    Tokens of a video come before the questions and the prompt after the first two, so that visual and motion
    quality do not depend on the text.
    """

    weights: VideoRewardWeights
    name: str = field(default="videoreward", init=False)
    version: str = field(init=False)
    license: str = field(init=False)
    measures: tuple[Measure, ...] = field(init=False)
    _loaded: tuple[VideoRewardNetwork, Words] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.version = f"{_CODE}-{self.weights.revision}"
        self.license = self.weights.license
        self.measures = (
            *(
                Measure(
                    name=f"videoreward_{dimension.lower()}",
                    better=1,
                    about=f"{about}, by VideoReward",
                    ratio=False,
                )
                for dimension, about in zip(DIMENSIONS, _ABOUT, strict=True)
            ),
            Measure(name="videoreward", better=1, about="sum of VideoReward's three", ratio=False),
        )

    def setup(self, device: str) -> None:
        """Load the weights: 4.3 GiB on a GPU, twice that in the memory of a CPU. Raises RewardError."""
        self._loaded = load_network(self.weights, device)

    @torch.inference_mode()
    def measure(self, clip: JudgedClip) -> dict[str, float]:
        """The four values; none for a clip that VideoReward cannot look at, and the reason in the log."""
        if self._loaded is None:
            raise RuntimeError("setup comes before measure")
        network, words = self._loaded
        reason = refusal(clip.frames_THW3, clip.text, words)
        if reason is not None:
            log.warning("VideoReward leaves out a clip: %s", reason)
            return {}
        config = self.weights.config
        device = network.rm_head.weight.device
        inputs = prepare(clip.frames_THW3.to(device), clip.fps, clip.text, config, words)
        raw = network(*(part.to(device) for part in collate([inputs])))[0].tolist()
        values = [
            (value - mean) / std for value, mean, std in zip(raw, config.means, config.stds, strict=True)
        ]
        return {one.name: value for one, value in zip(self.measures, [*values, sum(values)], strict=True)}


def make_judge(*, model: str | None) -> VideoRewardJudge:
    """The judge, without its weights. model: folder or Hub id of safetensors; None for what was converted.

    Raises RewardError when weights are missing, saying how to get them.
    """
    return VideoRewardJudge(weights=find_weights(model))
