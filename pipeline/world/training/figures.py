"""Held-out figures of the geometry network and the referee, as dictionaries that a table can print.

Legend: B clips, T frames, H, W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.world.cameras import MOVES
from pipeline.world.clips import WorldPrompt, render_prompt
from pipeline.world.corruptions import STRENGTHS, compose_flow, corrupt, warp_field
from pipeline.world.motion import flow_to_first
from pipeline.world.referee import Referee
from pipeline.world.scenes import make_scene
from pipeline.world.training.bank import ClipBank, coarse_flow, rewarp
from pipeline.world.training.geometry import relative_target, rotation_angle
from rewards.geometry.world.network import WorldGeometry, pose_to_w2c


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


def referee_figures(model: Referee, prompts: list[WorldPrompt]) -> dict[str, float]:
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
