"""Small valid records and runs for the tests of storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage.judgements import Judgement
from storage.run import Run
from storage.tables.ids import split_of
from storage.tables.records import Candidate, Prompt, Score
from storage.tables.shards import write_shard


def prompt(prompt_id: str = "p0", scene_id: str | None = None, **changes: Any) -> Prompt:
    scene = scene_id or f"scene-{prompt_id}"
    given: dict[str, Any] = {
        "prompt_id": prompt_id,
        "scene_id": scene,
        "split": split_of(scene),
        "text": f"a room, {prompt_id}",
        "camera_motion": ["tilt upward"],
    }
    return Prompt(**(given | changes))


def candidate(candidate_id: str = "c0", prompt_id: str = "p0", **changes: Any) -> Candidate:
    given: dict[str, Any] = {
        "candidate_id": candidate_id,
        "prompt_id": prompt_id,
        "seed": 7,
        "model": "world",
        "revision": "r1",
        "num_frames": 9,
        "height": 64,
        "width": 64,
        "fps": 8.0,
        "video_uri": f"media/videos/{candidate_id}.mp4",
        "latent_uri": f"media/latents/{candidate_id}.safetensors",
        "seconds": 0.5,
        "created_at": "2026-01-01T00:00:00+00:00",
    }
    if changes.get("status") == "failed":
        given |= {"video_uri": None, "latent_uri": None, "reason": "ran out of memory"}
    return Candidate(**(given | changes))


def score(candidate_id: str = "c0", value: float | None = -0.1, **changes: Any) -> Score:
    given: dict[str, Any] = {
        "candidate_id": candidate_id,
        "reward": "reprojection",
        "reward_version": "v1",
        "value": value,
        "motion": 0.5,
        "reason": None if value is not None else "no depth",
    }
    return Score(**(given | changes))


def judgement(**changes: Any) -> Judgement:
    given: dict[str, Any] = {
        "candidate_id": "c0",
        "judge": "eye",
        "judge_version": "1",
        "judge_license": "MIT",
        "names": ["fault"],
        "values": [0.5],
    }
    return Judgement(**(given | changes))


def run_with_pairs(path: Path, prompts: int = 3, per_prompt: int = 2) -> Run:
    """A run whose prompts each have candidates of falling value, with latents and conditions on disk."""
    import torch  # here, so that the processes of crash drills start fast

    from storage.media.tensors import write_tensors

    run = Run.create_or_open(path)
    generator = torch.Generator().manual_seed(0)
    candidates, scores = [], []
    for p in range(prompts):
        name = f"p{p:03}"
        embeds = torch.randn(4, 8, generator=generator)
        image = torch.randn(2, 4, 6, 6, generator=generator)
        write_tensors(
            run.resolve(run.condition_uri(name)), {"prompt_embeds": embeds, "image_latents": image}, {}
        )
        for c in range(per_prompt):
            identity = f"{name}-c{c}"
            latents = torch.randn(2, 4, 6, 6, generator=generator)
            write_tensors(run.resolve(run.latent_uri(identity)), {"latents": latents}, {})
            candidates.append(candidate(identity, name))
            scores.append(score(identity, -0.1 * (c + 1)))
    write_shard(run.shard_dir("prompts"), "prompts", [prompt(f"p{p:03}") for p in range(prompts)])
    write_shard(run.shard_dir("candidates"), "candidates", candidates)
    write_shard(run.shard_dir("scores"), "scores", scores)
    return run
