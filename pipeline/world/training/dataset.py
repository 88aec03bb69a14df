"""Training examples of the generator: first frames, encoded motion and prompts, half of them faulty.

The examples are made once, chunk by chunk, and kept as safetensors, so an interrupted preparation goes on
where it was. Shape legend: N examples, H W pixels, h w latent cells, C latent channels.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from diffusers.configuration_utils import FrozenDict
from safetensors import safe_open
from torch import Tensor

from pipeline.world.cameras import camera_path
from pipeline.world.clips import WorldPrompt, render_prompt, world_prompts
from pipeline.world.codec import MotionCodec
from pipeline.world.corruptions import Corruption, moving_boxes, warp
from pipeline.world.generator import SIZE
from pipeline.world.render import render
from pipeline.world.scenes import make_scene, stable_generator
from pipeline.world.training.common import save_safetensors

CHUNK = 100
_ENCODED_AT_ONCE = 25


@dataclass(frozen=True, kw_only=True)
class _Fault:
    """A fault that half of a generator's clips carry, and the range of its strength in the last frame."""

    corruption: Corruption
    weakest: float
    strongest: float


# By family: pixels of the growing warp, metres that the boxes slide. Each makes a base model with that fault.
_FAULTS: Final[dict[str, _Fault]] = {
    "warp": _Fault(corruption=warp, weakest=2.0, strongest=3.5),
    "boxes": _Fault(corruption=moving_boxes, weakest=0.35, strongest=0.7),
}


@dataclass(frozen=True, kw_only=True)
class Examples:
    """First frames in [-1, 1], motion latents, prompt texts and whether the clip carries the fault."""

    first_N3HW: Tensor
    motion_NChw: Tensor
    texts: tuple[str, ...]
    faulty_N: Tensor

    def __post_init__(self) -> None:
        counts = {len(self.first_N3HW), len(self.motion_NChw), len(self.texts), len(self.faulty_N)}
        if len(counts) != 1:
            raise ValueError(f"examples: all fields need the same length, got {sorted(counts)}")


def is_faulty(index: int) -> bool:
    """Every second block of ten prompts (all ten moves) is faulty: half of the clips of every move."""
    return (index // 10) % 2 == 1


def example_video(prompt: WorldPrompt, fault: str | None) -> Tensor:
    """The clip of a prompt, [3, T, H, W] in [-1, 1], with a fault of that family if one is named."""
    clip = render_prompt(prompt)
    frames: Tensor = clip.frames_THW3
    if fault is not None:
        family = _FAULTS[fault]
        strength = stable_generator("fault", prompt.scene_id).uniform(family.weakest, family.strongest)
        frames = family.corruption(make_scene(prompt.scene_id), clip, strength, prompt.seed)
    return frames.permute(3, 0, 1, 2) * 2 - 1


def _fit_codec(count: int = 200) -> MotionCodec:
    """A codec whose PCA is fitted on first frames of train scenes."""
    codec: MotionCodec = MotionCodec()
    codec.fit(torch.stack([_first_image(prompt) for prompt in world_prompts("train", count)]))
    return codec


def _first_image(prompt: WorldPrompt) -> Tensor:
    """The first frame of `example_video`, without the others."""
    scene = make_scene(prompt.scene_id)
    frames = render(scene, camera_path(scene, prompt.move, prompt.seed)[:1], SIZE).frames_THW3
    return frames[0].permute(2, 0, 1) * 2 - 1


def _prepare_chunk(
    codec: MotionCodec, directory: Path, index: int, size: int = CHUNK, fault: str = "warp"
) -> Path:
    """Writes chunk `index` of the examples (its first `size` clips) unless it is there; returns its path."""
    family = "" if fault == "warp" else f"-{fault}"
    name = f"examples{family}-{index:04d}" + ("" if size == CHUNK else f"-first-{size}")
    path = directory / f"{name}.safetensors"
    if path.exists():
        return path
    start = index * CHUNK
    prompts = world_prompts("train", size, start=start)
    faulty = [is_faulty(position) for position in range(start, start + size)]
    videos = torch.stack(
        [example_video(prompt, fault if bad else None) for prompt, bad in zip(prompts, faulty, strict=True)]
    )
    parts = torch.split(videos, _ENCODED_AT_ONCE)
    motion = torch.cat([codec.encode(part, return_dict=False)[0][:, :, 1] for part in parts])
    tensors = {
        "first": ((videos[:, :, 0] + 1) * 127.5).round().to(torch.uint8),
        "motion": motion.to(torch.float16),
        "faulty": torch.tensor(faulty),
    }
    save_safetensors(path, tensors, {"texts": json.dumps([prompt.text for prompt in prompts])})
    return path


def _load_examples(paths: list[Path]) -> Examples:
    """All examples of the chunks, in memory."""
    parts: dict[str, list[Tensor]] = {"first": [], "motion": [], "faulty": []}
    texts: list[str] = []
    for path in paths:
        with safe_open(path, framework="pt") as handle:
            texts.extend(json.loads(handle.metadata()["texts"]))
            for name, values in parts.items():
                values.append(handle.get_tensor(name))
    return Examples(
        first_N3HW=torch.cat(parts["first"]).float() / 127.5 - 1,
        motion_NChw=torch.cat(parts["motion"]).float(),
        texts=tuple(texts),
        faulty_N=torch.cat(parts["faulty"]),
    )


def prepare_examples(
    directory: Path, clips: int, report: Callable[[int, int], None] | None = None, fault: str = "warp"
) -> tuple[MotionCodec, Examples]:
    """The codec and `clips` examples, half of them with a fault of that family.

    Makes only what `directory` lacks and reports (made, clips).
    """
    codec, paths = _prepare_codec(directory / "codec"), []
    for index, start in enumerate(range(0, clips, CHUNK)):
        size = min(CHUNK, clips - start)
        paths.append(_prepare_chunk(codec, directory, index, size, fault))
        if report is not None:
            report(start + size, clips)
    return codec, _load_examples(paths)


def _prepare_codec(folder: Path) -> MotionCodec:
    if not (folder / "config.json").exists():
        # The configuration is what marks the folder as complete, so it arrives last, with the whole folder.
        with tempfile.TemporaryDirectory(dir=_made(folder.parent)) as made:
            _fit_codec().save_pretrained(Path(made) / folder.name)
            (Path(made) / folder.name).rename(folder)
    codec: MotionCodec = MotionCodec.from_pretrained(folder)
    # Where it was loaded from would end in the exported configuration, and so in the model's revision.
    codec._internal_dict = FrozenDict(
        {name: value for name, value in codec.config.items() if name != "_name_or_path"}
    )
    return codec


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def augment(
    examples: Examples, chosen_B: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, list[str]]:
    """First frames, motion and texts of a batch, each mirrored with probability one half, colours permuted.

    Mirroring changes the sign of horizontal motion and swaps left and right in the prompt.
    """
    firsts, motions, texts = [], [], []
    for index in chosen_B.tolist():
        first = examples.first_N3HW[index][torch.randperm(3, generator=generator)]
        motion, text = examples.motion_NChw[index], examples.texts[index]
        if torch.rand((), generator=generator) < 0.5:
            first, motion, text = first.flip(-1), mirror_motion(motion), mirror_text(text)
        firsts.append(first)
        motions.append(motion)
        texts.append(text)
    return torch.stack(firsts), torch.stack(motions), texts


def mirror_motion(motion_Chw: Tensor) -> Tensor:
    """Motion latents (x and y alternate in the channels) of the mirrored clip."""
    mirrored = motion_Chw.flip(-1).clone()
    mirrored[0::2] *= -1
    return mirrored


def mirror_text(text: str) -> str:
    """The prompt of the mirrored clip: left and right swapped."""
    return text.replace("left", "\0").replace("right", "left").replace("\0", "right")
