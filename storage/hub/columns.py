"""The columns of an export, and what they mean: those of the pairs, and what is told of their videos."""

from __future__ import annotations

import pyarrow as pa

from storage.tables.schemas import PAIR_TENSORS, TABLES

SIDES = ("winner", "loser")
_OF_PAIRS = {
    "pair_id": "names the two candidates and what judged them",
    "prompt_id": "content hash of the prompt",
    "scene_id": "scene of the prompt; no scene is in two splits",
    "split": "train, val or test, by hash of scene_id",
    "text": "the prompt",
    "winner_id": "candidate with the higher value, or the one that a person put first",
    "loser_id": "the other candidate",
    "winner_value": "reward of the winner, higher is better",
    "loser_value": "reward of the loser",
    "gap": "winner_value - loser_value, above 0 unless a person swapped the two",
    "reward": "name of the reward",
    "reward_version": "version of the reward and its settings",
    "winner_motion": "camera motion of the winner, in units of scene depth",
    "loser_motion": "camera motion of the loser",
    "model": "model that sampled the winner, or encoded it; imported where none did",
    "revision": "its revision",
    "num_frames": "frames of both videos",
    "human": "keep or swap where a person decided, null elsewhere",
    "winner_latents": "final latents of the winner",
    "loser_latents": "final latents of the loser",
    "prompt_embeds": "the encoded prompt",
    "image_latents": "latents of the first frame, null for text-to-video",
    "image_embeds": "features of the first frame, null where the model takes none",
}
# Of both videos, which are of one format, and of each.
OF_BOTH: dict[str, tuple[pa.DataType, str]] = {
    "width": (pa.int32(), "of both videos, in pixels"),
    "height": (pa.int32(), "of both videos"),
    "fps": (pa.float64(), "frames a second of both videos"),
}
OF_EACH: dict[str, tuple[pa.DataType, str]] = {
    "video": (pa.string(), "path of the {side}'s video, {root}"),
    "origin": (pa.string(), "sampled or imported; null where the run no longer says it"),
    "source": (pa.string(), "file that was imported, as its source names it"),
    "source_width": (pa.int32(), "of that file as players show it, in pixels"),
    "source_height": (pa.int32(), "of that file"),
    "source_frames": (pa.int32(), "frames of that file"),
    "source_fps": (pa.float64(), "frames a second of that file"),
    "changes": (pa.list_(pa.string()), "what was done to it: turned, cut, scaled, ..."),
}
ADDED = pa.schema(
    [(name, kind) for name, (kind, _) in OF_BOTH.items()]
    + [(f"{side}_{name}", kind) for side in SIDES for name, (kind, _) in OF_EACH.items()]
)


def described(tensors: bool, root: str) -> list[tuple[str, str, str]]:
    """Name, type and meaning of every column; `root` says what the paths of videos are relative to."""
    rows = [
        (one.name, "struct(data, shape, dtype)" if one.name in PAIR_TENSORS else str(one.type))
        for one in (*TABLES["pairs"], *ADDED)
        if tensors or one.name not in PAIR_TENSORS
    ]
    about = _OF_PAIRS | {name: text for name, (_, text) in OF_BOTH.items()}
    for side in SIDES:
        about |= {f"{side}_{name}": text.format(side=side, root=root) for name, (_, text) in OF_EACH.items()}
    return [(name, kind, about[name]) for name, kind in rows]
