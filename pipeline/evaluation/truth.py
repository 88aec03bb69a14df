"""The true clips of the embedded world's prompts, which judges measure beside those of the models.

What a perfect model would score says where a measure without a better direction should lie: an aligned model
that moves less than its base may have come nearer to the truth, or gone further from it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation.adapters import TRUTH
from pipeline.evaluation.judges.world import AGAINST_TRUTH, true_clip, world_prompt
from storage.media.video import is_whole, write_video
from storage.run import Run


def true_clips(inner: Run, clips: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A clip like those of the models for every prompt of theirs that has a true one, its video written.

    They are no candidates: no model sampled them, and no reward scores them. The seed is 0.
    """
    found = {}
    for clip in clips:
        prompt = clip["prompt"]
        world = world_prompt(prompt["text"], prompt["metadata"])
        if world is None or clip["prompt_id"] in found:
            continue
        name = f"{TRUTH}-{clip['prompt_id']}"
        uri = inner.video_uri(name)
        if not is_whole(inner.resolve(uri)):
            frames_THW3 = (true_clip(world) * 255).round().byte().numpy()
            write_video(inner.resolve(uri), frames_THW3, clip["fps"])
        shared = {key: clip[key] for key in ("prompt_id", "prompt", "fps")}
        own = {"candidate_id": name, "model_name": TRUTH, "video_uri": uri, "seed": 0, "scored": {}}
        found[clip["prompt_id"]] = shared | own
    return list(found.values())


def truth_means(clips: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean over prompts of what was measured of true clips, by measure.

    Without the measures that compare a clip with the true one.
    """
    values = defaultdict(list)
    for clip in clips:
        for name, value in clip["measures"].items():
            if value is not None and math.isfinite(value) and name not in AGAINST_TRUTH:
                values[name].append(value)
    return {name: sum(each) / len(each) for name, each in values.items()}
