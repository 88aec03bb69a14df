"""Held-out figures of the world's networks: the codec, the geometry networks and the referee.

Legend: B, N clips, T frames, H, W pixels.
"""

from __future__ import annotations

from itertools import product
from typing import Final

import torch
from torch import Tensor

from jobs.bench.world.held_out import HeldOut
from jobs.figure_tables import Cell, FigureTable
from pipeline.world.cameras import MOVES
from pipeline.world.clips import WorldPrompt, render_prompt
from pipeline.world.codec import MotionCodec
from pipeline.world.corruptions import STRENGTHS, compose_flow, corrupt, warp_field
from pipeline.world.motion import flow_to_first
from pipeline.world.referee import Referee
from pipeline.world.scenes import make_scene
from pipeline.world.training.bank import ClipBank, coarse_flow, render_bank, rewarp
from pipeline.world.training.geometry import relative_target, rotation_angle
from rewards.geometry.world.network import WorldGeometry, pose_to_w2c
from rewards.measures.quality import psnr


@torch.no_grad()
def geometry_figures(model: WorldGeometry, bank: ClipBank, *, rewarped: bool = False) -> dict[str, float]:
    """Errors on true clips, raw or as a motion-compensated codec shows them.

    abs_rel: mean of |d - d*| / d* after one median scale a clip; rotation_degrees and translation (in mean
    depths of frame 0): mean over the later frames; translation_scaled: the same after the clip's depth scale;
    repeat_*: what predicting no motion at all would give.
    """
    sums: dict[str, list[Tensor]] = {}
    for start in range(0, len(bank), 10):
        part = bank.pick(torch.arange(start, min(start + 10, len(bank))))
        frames = part.frames_NTHW3.float() / 255
        if rewarped:
            moved = rewarp(frames[:, 0], part.flow_NT2hw.float())
            frames = torch.cat([frames[:, :1], moved[:, 1:]], 1)
        predicted, target = model(frames.permute(0, 1, 4, 2, 3).contiguous()), relative_target(part)
        w2c = pose_to_w2c(predicted.pose_encoding_BT9)
        scale = (target.depth_BTHW / predicted.depth_BTHW).flatten(1).median(1).values.view(-1, 1, 1, 1)
        relative = (predicted.depth_BTHW * scale - target.depth_BTHW).abs() / target.depth_BTHW
        angle = rotation_angle(w2c[..., :3], target.w2c_BT34[..., :3])
        still = rotation_angle(torch.eye(3).expand_as(w2c[..., :3]), target.w2c_BT34[..., :3])
        step, true_step = w2c[..., 3], target.w2c_BT34[..., 3]
        values = {
            "abs_rel": relative.flatten(1).mean(1),
            "rotation_degrees": angle[:, 1:].mean(1).rad2deg(),
            "translation": (step - true_step).norm(dim=-1)[:, 1:].mean(1),
            "translation_scaled": (step * scale[..., 0] - true_step).norm(dim=-1)[:, 1:].mean(1),
            "repeat_rotation_degrees": still[:, 1:].mean(1).rad2deg(),
            "repeat_translation": true_step.norm(dim=-1)[:, 1:].mean(1),
        }
        for name, value in values.items():
            sums.setdefault(name, []).append(value)
    return {name: float(torch.cat(parts).mean()) for name, parts in sums.items()}


def area_under_curve(positive: Tensor, negative: Tensor) -> float:
    """Probability that a positive scores above a negative one, ties counting half."""
    difference = positive[:, None] - negative[None]
    return float(((difference > 0).double() + 0.5 * (difference == 0).double()).mean())


def clip_variants(prompt: WorldPrompt, seed: int = 0) -> dict[str, Tensor]:
    """The true clip of a prompt, every corruption and strength, and the codec's dress of clean and warped.

    Keys: clean, clean_rewarped, NAME@STRENGTH, warp_rewarped@STRENGTH; frames [T, H, W, 3].
    """
    scene, clip = make_scene(prompt.scene_id), render_prompt(prompt)
    flow, _ = flow_to_first(clip)
    frames = clip.frames_THW3
    variants = {"clean": frames, "clean_rewarped": rewarp(frames[:1], coarse_flow(flow)[None])[0]}
    for name, strengths in STRENGTHS.items():
        for strength in strengths:
            variants[f"{name}@{strength:g}"] = corrupt(name, scene, clip, strength, seed)
    for strength in STRENGTHS["warp"]:
        field = warp_field(frames.shape[0], frames.shape[1], strength, seed)
        faulty = rewarp(frames[:1], coarse_flow(compose_flow(flow, field))[None])[0]
        variants[f"warp_rewarped@{strength:g}"] = faulty
    return variants


def _referee_figures(model: Referee, prompts: list[WorldPrompt]) -> dict[str, float]:
    """AUC of the fault logit per corruption and strength against clean clips in like dress; move accuracy.

    `share_above_half.*` is the share of clips called faulty: false alarms for the clean ones.
    """
    logits: dict[str, list[Tensor]] = {}
    right = {"clean": 0.0, "clean_rewarped": 0.0}
    names = [move.name for move in MOVES]
    for number, prompt in enumerate(prompts):
        variants = clip_variants(prompt, seed=number)
        verdict = model.judge(torch.stack(list(variants.values())), batch_size=4)
        for index, name in enumerate(variants):
            logits.setdefault(name, []).append(verdict.fault_B[index])
            if name in right:
                right[name] += float(verdict.moves_BM[index].argmax() == names.index(prompt.move)) / len(
                    prompts
                )
    scores = {name: torch.stack(values) for name, values in logits.items()}
    figures = {f"move_accuracy.{name}": value for name, value in right.items()}
    for name, values in scores.items():
        figures[f"share_above_half.{name}"] = float((values > 0).float().mean())
        if name not in right:
            clean = scores["clean_rewarped" if "rewarped" in name else "clean"]
            figures[f"auc.{name}"] = area_under_curve(values, clean)
    return figures


def round_trip(codec: MotionCodec, frames_THW3: Tensor) -> Tensor:
    """A clip in [0, 1] after encoding and decoding."""
    video = frames_THW3.permute(3, 0, 1, 2)[None] * 2 - 1
    latents = codec.encode(video, return_dict=False)[0]
    decoded: Tensor = codec.decode(latents, return_dict=False)[0][0]
    frames = decoded.permute(1, 2, 3, 0) / 2 + 0.5
    return frames.clamp(0, 1)


@torch.no_grad()
def measure_codec(held_out: HeldOut) -> list[FigureTable]:
    """PSNR per frame, from RGB alone; the mean is over frames, then over clips."""
    kept, repeated = [], []
    for prompt in held_out.each("codec", held_out.clip_prompts):
        frames = render_prompt(prompt).frames_THW3
        kept.append(psnr(round_trip(held_out.codec, frames), frames))
        repeated.append(psnr(frames[:1], frames))
    kept_NT, repeated_NT = torch.stack(kept), torch.stack(repeated)
    frames_count = kept_NT.shape[1]
    parts = {"mean": slice(0, frames_count), f"mean of 2-{frames_count}": slice(1, frames_count)}
    parts |= {str(frame + 1): slice(frame, frame + 1) for frame in range(frames_count)}
    rows: list[tuple[Cell, ...]] = []
    for name, part in parts.items():
        clip_N, still = kept_NT[:, part].mean(1), repeated_NT[:, part].mean()
        # Repeating frame 1 has no error at frame 1, so it has no figure there.
        rows.append((name, float(clip_N.mean()), float(clip_N.min()), float(still) if part.start else None))
    return [
        FigureTable(
            subject="codec",
            title="Codec: PSNR in dB after encoding from RGB and decoding",
            counts={"clips": len(kept)},
            columns=("frame", "psnr", "worst clip", "repeating frame 1"),
            rows=tuple(rows),
        )
    ]


_REWARD: Final = "geometry"
_JUDGE: Final = "geometry-judge"  # measured where it is there
_TITLES: Final = {_REWARD: "Geometry", _JUDGE: "Geometry of the judge"}
_KINDS: Final = (("rendered", False), ("moved by coarse flow", True))
_COLUMNS: Final = {
    "abs_rel": "abs-rel",
    "rotation_degrees": "rotation deg",
    "translation_scaled": "translation",
    "repeat_rotation_degrees": "no motion: deg",
    "repeat_translation": "no motion: translation",
}


def measure_geometry(held_out: HeldOut) -> list[FigureTable]:
    """abs-rel after one median scale a clip, and pose errors of the later frames."""
    bank = render_bank(held_out.split, held_out.clips)
    models = [name for name in (_REWARD, _JUDGE) if (held_out.checkpoints / name).is_dir()]
    rows: dict[str, list[tuple[Cell, ...]]] = {model: [] for model in models}
    for model, (kind, rewarped) in held_out.each("geometry", list(product(models, _KINDS))):
        network = WorldGeometry.from_pretrained(held_out.folder(model))
        figures = geometry_figures(network, bank, rewarped=rewarped)
        rows[model].append((kind, *(figures[key] for key in _COLUMNS)))
    return [
        FigureTable(
            subject="geometry",
            title=f"{_TITLES[model]}: errors on true clips, translation in mean depths of frame 1",
            counts={"clips": held_out.clips},
            columns=("clips", *_COLUMNS.values()),
            rows=tuple(rows[model]),
        )
        for model in models
    ]


def measure_referee(held_out: HeldOut) -> list[FigureTable]:
    """AUC of the fault logit per corruption and strength; move accuracy and false alarms of clean clips."""
    held_out.progress.start("referee", held_out.clips, 0)
    figures = _referee_figures(held_out.referee_of(), held_out.clip_prompts)
    held_out.progress.advance(held_out.clips, 0)
    held_out.progress.stop()
    faults: list[tuple[Cell, ...]] = []
    clean: list[tuple[Cell, ...]] = []
    for key, value in figures.items():
        kind, _, variant = key.partition(".")
        if kind == "auc":
            name, _, strength = variant.partition("@")
            faults.append((name, float(strength), value, figures[f"share_above_half.{variant}"]))
        elif kind == "move_accuracy":
            clean.append((variant, value, figures[f"share_above_half.{variant}"]))
    counts = {"clips": held_out.clips}
    return [
        FigureTable(
            subject="referee",
            title="Referee: faulty clips against clean ones in the same dress",
            counts=counts,
            columns=("corruption", "strength", "AUC", "called faulty"),
            rows=tuple(faults),
        ),
        FigureTable(
            subject="referee",
            title="Referee: clean clips",
            counts=counts,
            columns=("clips", "move accuracy", "called faulty"),
            rows=tuple(clean),
        ),
    ]
