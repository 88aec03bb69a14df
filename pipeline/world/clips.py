"""Prompts of the world and the clips that answer them, split by scene."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from pipeline.world.cameras import MOVES, camera_path, move_named
from pipeline.world.scenes import COLOURS, PATTERNS, Scene, make_scene, stable_seed
from storage.tables.ids import split_of

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.world.render import Clip

SPLITS: Final = ("train", "val", "test")
_COUNTS: Final = {3: "three", 4: "four"}


@dataclass(frozen=True, kw_only=True)
class WorldPrompt:
    """A scene, a camera move and its sentence; `seed` draws the amplitude of the move in the true clip."""

    scene_id: str
    move: str
    text: str
    seed: int


def _prompt_text(scene: Scene, move_name: str) -> str:
    """The sentence of a prompt: what the scene shows, then the camera motion."""
    return _sentence(scene.wall_pattern, scene.wall_colour, _COUNTS[scene.box_count], move_name)


def _sentence(pattern: str, colour: str, count: str, move_name: str) -> str:
    return (
        f"A room with a {pattern} {colour} wall and {count} boxes. "
        f"Camera motion: {move_named(move_name).phrase}."
    )


def is_sentence(text: str, move_name: str) -> bool:
    """Whether a text is that of a prompt of some scene with this move; which scene takes drawing it."""
    choices = ("|".join(words) for words in (PATTERNS, COLOURS, _COUNTS.values()))
    pattern, colour, count = (f"({each})" for each in choices)
    return re.fullmatch(_sentence(pattern, colour, count, move_name), text) is not None


def split_words(text: str) -> list[str]:
    """Words and punctuation marks of a sentence, as the tokenizer of the world sees them."""
    return re.findall(r"\w+|[^\w\s]", text)


def vocabulary() -> list[str]:
    """All words and marks that a prompt of the world can contain, sorted."""
    words = {*split_words("A room with a wall and boxes. Camera motion:")}
    words.update(COLOURS, PATTERNS, _COUNTS.values())
    for move in MOVES:
        words.update(split_words(move.phrase))
    return sorted(words)


@lru_cache(maxsize=16)
def scene_ids(split: str, count: int) -> tuple[str, ...]:
    """The first `count` scene ids of a split, in order; ValueError names the splits."""
    if split not in SPLITS:
        raise ValueError(f"split: must be one of {', '.join(SPLITS)}, got {split!r}")
    found: list[str] = []
    number = 0
    while len(found) < count:
        scene_id = f"world-{number:06d}"
        if split_of(scene_id) == split:
            found.append(scene_id)
        number += 1
    return tuple(found)


def world_prompts(split: str, count: int, start: int = 0) -> list[WorldPrompt]:
    """`count` prompts of a split from position `start`: a new scene each, the moves in turn."""
    return [_prompt_of(scene_id, move) for scene_id, move, _ in world_keys(split, count, start)]


def world_keys(split: str, count: int, start: int = 0) -> list[tuple[str, str, int]]:
    """Scene, move and seed of these prompts: all but the text, for which the scene has to be drawn."""
    ids = enumerate(scene_ids(split, start + count)[start:], start)
    return [(name, MOVES[position % len(MOVES)].name, _prompt_seed(name)) for position, name in ids]


def _prompt_seed(scene_id: str) -> int:
    return stable_seed("prompt", scene_id) % 2**31


# Planning asks for the same prompts and first frames once for every model of an evaluation, and making them
# costs a hundred times what the rest of a plan does.
@lru_cache(maxsize=4096)
def _prompt_of(scene_id: str, move: str) -> WorldPrompt:
    text = _prompt_text(make_scene(scene_id), move)
    return WorldPrompt(scene_id=scene_id, move=move, text=text, seed=_prompt_seed(scene_id))


def render_prompt(prompt: WorldPrompt, size: int = 64) -> Clip:
    """The true clip of a prompt, with depth, poses and intrinsics."""
    from pipeline.world.render import render

    scene = make_scene(prompt.scene_id)
    return render(scene, camera_path(scene, prompt.move, prompt.seed), size)


def first_frame(prompt: WorldPrompt, size: int = 64) -> Tensor:
    """The first frame of the true clip, uint8 [H, W, 3]: the same for every move of the scene."""
    return _first_frame(prompt, size).clone()


@lru_cache(maxsize=1024)
def _first_frame(prompt: WorldPrompt, size: int) -> Tensor:
    import torch

    from pipeline.world.render import render

    scene = make_scene(prompt.scene_id)
    frames = render(scene, camera_path(scene, prompt.move, prompt.seed, frames=2)[:1], size).frames_THW3
    return (frames[0] * 255).round().to(torch.uint8)
