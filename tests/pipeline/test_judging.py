"""What judges measure of a clip, and which of them `--judge` names."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from jobs.evaluate.command import _judges as chosen_judges
from pipeline.evaluation.judges import judge as judging
from pipeline.evaluation.judges.epipolar import EpipolarJudge
from pipeline.evaluation.judges.geometry import GeometryJudge, find_lpips
from pipeline.evaluation.judges.judge import ClipJudge, JudgeChoice, JudgedClip
from pipeline.evaluation.judges.pictures import PictureJudge, displacement
from pipeline.evaluation.judges.world import WorldJudge
from pipeline.evaluation.panel import Panel
from pipeline.world.clips import WorldPrompt, render_prompt, world_prompts
from pipeline.world.corruptions import corrupt
from pipeline.world.motion import flow_to_first
from pipeline.world.scenes import make_scene
from rewards.errors import RewardError
from rewards.geometry.backends import load_backend
from rewards.options import ReprojectionOptions
from rewards.reprojection import reprojection_error
from storage.errors import UserError
from storage.tables.records import CLIP_MEASURES


# An orbit uncovers much: there the flow back from later frames, which is what is known, is not the way forth.
@pytest.mark.parametrize(("number", "tolerance"), [(0, 0.15), (3, 0.15), (5, 0.15), (8, 0.3)])
def test_displacement_is_the_way_that_true_points_go(number: int, tolerance: float) -> None:
    clip = render_prompt(world_prompts("test", 10)[number])
    flow_THW2, _ = flow_to_first(clip)
    true = flow_THW2[1:].norm(dim=-1).flatten(1).median(dim=1).values.mean()
    assert displacement(clip.frames_THW3) == pytest.approx(float(true), rel=tolerance)


def test_a_still_clip_goes_nowhere_and_a_single_frame_has_no_way() -> None:
    frame = render_prompt(world_prompts("test", 1)[0]).frames_THW3[:1]
    assert displacement(frame.repeat(3, 1, 1, 1)) == pytest.approx(0, abs=1e-3)
    assert torch.tensor(displacement(frame)).isnan()


def judged(prompt: WorldPrompt, frames_THW3: torch.Tensor | None = None) -> JudgedClip:
    world = {"scene_id": prompt.scene_id, "move": prompt.move, "seed": prompt.seed}
    return JudgedClip(
        frames_THW3=render_prompt(prompt).frames_THW3 if frames_THW3 is None else frames_THW3,
        fps=8,
        text=prompt.text,
        metadata=json.dumps({"world": world}),
    )


def ready(judge: ClipJudge) -> ClipJudge:
    """The judge as a worker has it: a copy that loaded its weights."""
    there: ClipJudge = deepcopy(judge)
    there.setup("cpu")
    return there


def test_the_referee_is_that_of_the_base_models_faults() -> None:
    prompts = world_prompts("test", 4)
    judges = {name: ready(WorldJudge(name)) for name in ("world", "world-boxes")}
    assert len({judge.version for judge in judges.values()}) == 2
    sliding, still = [], []
    for number, prompt in enumerate(prompts):
        clip = render_prompt(prompt)
        moved = judged(prompt, corrupt("moving_boxes", make_scene(prompt.scene_id), clip, 0.6, number))
        sliding.append({name: judge.measure(moved)["fault"] for name, judge in judges.items()})
        still.append(judges["world-boxes"].measure(judged(prompt))["fault"])
    seen = sum(found["world-boxes"] for found in sliding) / 4
    assert seen > sum(still) / 4 + 0.3
    assert all(found["world"] != found["world-boxes"] for found in sliding)


def test_a_true_clip_is_the_truth_and_a_foreign_prompt_has_none() -> None:
    prompt = world_prompts("test", 1)[0]
    judge = ready(WorldJudge())
    found = judge.measure(judged(prompt))
    assert found["truth_psnr"] == math.inf
    clip = judged(prompt)
    assert judge.measure(JudgedClip(frames_THW3=clip.frames_THW3, fps=8, text="a hall")) == {}


def test_the_geometry_columns_are_those_of_its_own_model(tiny_geometry: Path) -> None:
    prompt = world_prompts("test", 1)[0]
    own, other = (ready(GeometryJudge("world", model, 9)) for model in (None, str(tiny_geometry)))
    assert own.version != other.version
    clip = judged(prompt)
    found = own.measure(clip)
    assert set(found) == {one.name for one in own.measures}
    backend = load_backend("world", model=None, revision=None, device="cpu")
    perceptual, _ = find_lpips()
    options = ReprojectionOptions(frames=9, perceptual=perceptual)
    if perceptual == "none":
        error = reprojection_error(backend.reconstruct(clip.frames_THW3), options).value
        assert error is not None
        assert found["error_3dcs"] == pytest.approx(-error)
    assert other.measure(clip)["error_3dcs"] != found["error_3dcs"]
    still = judged(prompt, clip.frames_THW3[:1].repeat(9, 1, 1, 1))
    assert own.measure(still)["motion"] < 0.001 < found["motion"]


def test_lpips_is_a_column_where_its_backbone_is() -> None:
    def nothing(name: str) -> None:
        raise RewardError("missing")

    def only_alex(name: str) -> None:
        if name != "lpips-alex":
            raise RewardError("missing")

    assert find_lpips(only_alex) == ("lpips-alex", None)
    name, note = find_lpips(nothing)
    assert name == "none"
    assert note is not None
    assert note.startswith("no LPIPS column")


def test_matches_judge_without_a_geometry_model() -> None:
    prompt = world_prompts("test", 1)[0]
    clip = render_prompt(prompt)
    judge = ready(EpipolarJudge(9))
    true = judge.measure(judged(prompt))["epipolar"]
    assert 0 < true < 0.2
    # Frames that come from two rooms have no matrix that fits: their matches are few or far from it.
    other = render_prompt(world_prompts("test", 4)[3]).frames_THW3
    mixed = judge.measure(judged(prompt, torch.cat([clip.frames_THW3[:5], other[5:]])))["epipolar"]
    assert math.isnan(mixed) or mixed > 2 * true
    still = judged(prompt, clip.frames_THW3[:1].repeat(9, 1, 1, 1))
    assert math.isnan(judge.measure(still)["epipolar"])


def test_every_measure_has_a_column_of_its_own() -> None:
    panel = Panel.of([JudgeChoice.parse("world")], model="world", frames=9, world=True)
    names = [measure.name for measure in panel.measures]
    assert len(set(names)) == len(names)
    assert set(names) <= set(CLIP_MEASURES)
    assert len(panel.versions) == len(panel.judges)
    elsewhere = Panel.of([JudgeChoice.parse("none")], model="wan", frames=9, world=False)
    assert elsewhere.geometry is None
    assert set(elsewhere.versions) == {EpipolarJudge.name, PictureJudge.name}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sora"], "judge 'sora' does not exist; choose from: none, world,"),
        (["none=x"], "judge 'none' has no model, got 'x'"),
        (["world", "vggt"], "one geometry model judges an evaluation, got world and vggt"),
        (["none", "none"], "a judge is named twice in none, none"),
    ],
)
def test_a_judge_that_makes_no_sense_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Panel.of([JudgeChoice.parse(word) for word in words], model="world", frames=9, world=True)


def test_missing_weights_of_a_judge_name_the_way_around_it(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=r"judge world: .*are missing.*or evaluate without: `judges` none"):
        Panel.of([JudgeChoice.parse(f"world={tmp_path}")], model="world", frames=9, world=True)


def test_the_model_of_a_judge_is_all_behind_the_first_sign() -> None:
    assert JudgeChoice.parse("world=a=b") == JudgeChoice(name="world", model="a=b")
    assert JudgeChoice.parse("world=") == JudgeChoice(name="world")


def test_a_judge_of_another_kind_sits_beside_the_geometry_of_the_preset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(judging._OWN, "taste", judging.JudgeSpec(module="tests.pipeline.toy_judge"))
    assert [one.name for one in chosen_judges(["taste"], ["world"])] == ["world", "taste"]
    assert [one.name for one in chosen_judges(["taste", "none"], ["world"])] == ["taste", "none"]
    panel = Panel.of(chosen_judges(["taste=salt"], ["world"]), model="world", frames=9, world=False)
    assert "taste" in panel.versions
    assert panel.versions["taste"] == "salt"
    assert [one.name for one in panel.measures][-1] == "roughness"
