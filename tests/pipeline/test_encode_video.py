"""Latents of videos made elsewhere, against the diffusers pipelines that encode videos themselves.

Legend: B batch, F latent frames, C channels, h w latent cells, T frames, H W pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXVideoToVideoPipeline, WanVideoToVideoPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from pipeline.models import resolve_model
from pipeline.sampling.samplers import make_sampler
from pipeline.sampling.settings import SamplerSettings
from tests import tiny_wan
from tests.pipeline import tiny

TEXT = "a quiet hall"


def load(folder: Path, height: int = 32, width: int = 32, **changes: Any) -> Any:
    torch.set_num_threads(1)
    settings = tiny.SAMPLER | {"height": height, "width": width} | changes
    sampler = make_sampler(resolve_model(str(folder)), SamplerSettings(**settings))
    sampler.setup()
    return sampler


def video(height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (9, height, width, 3), dtype=torch.uint8, generator=generator)


def stock_latents(pipe: Any, frames_THW3: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """What a video-to-video pipeline of diffusers starts from, before it adds noise."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, _=None: self.mode())
    pipe.scheduler.init_noise_sigma = 1.0
    monkeypatch.setattr(type(pipe.scheduler), "add_noise", lambda _self, clean, _noise, _timestep: clean)
    pictures = [frame.numpy() / 255.0 for frame in frames_THW3]
    height, width = frames_THW3.shape[1:3]
    given = pipe.video_processor.preprocess_video(pictures, height=height, width=width).to(torch.float32)
    made: Tensor = pipe.prepare_latents(
        given, 1, tiny.CHANNELS, height, width, torch.float32, torch.device("cpu"), timestep=torch.tensor([0])
    )
    return made[0]


@pytest.mark.parametrize("text_only", [True, False])
def test_cogvideox_latents_are_those_of_the_stock_pipeline(
    text_only: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = load(tiny.build(tmp_path / "model", text_only=text_only))
    condition = sampler.encode(TEXT, None if text_only else video()[0])
    found = sampler.encode_video(video(), condition)
    pipe = sampler.pipe
    parts = {name: getattr(pipe, name) for name in ("tokenizer", "text_encoder", "vae", "transformer")}
    stock = CogVideoXVideoToVideoPipeline(**parts, scheduler=pipe.scheduler)
    expected = stock_latents(stock, video(), monkeypatch)
    assert found.shape == expected.shape == (3, 4, 4, 4)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(found, sampler.encode_video(video(), condition)), "nothing is drawn"


@pytest.mark.parametrize("text_only", [True, False])
def test_cogvideox_1_5_is_padded_in_front_with_its_first_frame(text_only: bool, tmp_path: Path) -> None:
    new = load(tiny.build(tmp_path / "new", text_only=text_only, version_1_5=True))
    old = load(tiny.build(tmp_path / "old", text_only=text_only))
    condition = new.encode(TEXT, None if text_only else video()[0])
    found = new.encode_video(video(), condition)
    plain = old.encode_video(video(), old.encode(TEXT, None if text_only else video()[0]))
    assert found.shape == (4, 4, 4, 4)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[1:], plain), "the scale of image latents alone is inverted in 1.5"
    assert torch.equal(new.decode(found), old.decode(plain)), "decoding leaves the padding out"


@pytest.mark.parametrize(("kind", "from_image"), [("t2v", False), ("i2v", True), ("ti2v", False)])
def test_wan_latents_are_those_of_the_stock_pipeline(
    kind: tiny_wan.Kind, from_image: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = tiny_wan.size(kind)
    sampler = load(tiny_wan.build(tmp_path / kind, kind), *size)
    condition = sampler.encode(TEXT, video(*size)[0] if from_image else None)
    found = sampler.encode_video(video(*size), condition)
    pipe = sampler.pipe
    parts = {name: getattr(pipe, name) for name in ("tokenizer", "text_encoder", "vae", "transformer")}
    expected = stock_latents(
        WanVideoToVideoPipeline(**parts, scheduler=pipe.scheduler), video(*size), monkeypatch
    )
    assert found.shape == expected.shape == tiny_wan.latent_shape(kind)
    assert torch.allclose(found, expected, atol=1e-6)


def test_ti2v_keeps_the_clean_first_frame_that_sampling_leaves(tmp_path: Path) -> None:
    size = tiny_wan.size("ti2v")
    sampler = load(tiny_wan.build(tmp_path / "ti2v", "ti2v"), *size)
    condition = sampler.encode(TEXT, video(*size, seed=7)[0])
    found = sampler.encode_video(video(*size), condition)
    (sampled,) = sampler.sample(condition, [1])
    assert torch.equal(found[:, :1], condition.image_latents_FChw)
    assert torch.equal(sampled.latents_FChw[:, :1], condition.image_latents_FChw)
    alone = sampler.encode_video(video(*size), sampler.encode(TEXT, None))
    assert torch.equal(found[:, 1:], alone[:, 1:])
    # With the video's own first frame nothing is replaced: it is encoded the same way.
    own = sampler.encode(TEXT, video(*size)[0])
    assert torch.allclose(sampler.encode_video(video(*size), own), alone, atol=1e-5)


def test_the_worlds_codec_brings_a_video_back() -> None:
    from pipeline.sampling.prompts import world_items
    from pipeline.world.clips import render_prompt, world_prompts

    sampler = load(Path("world"), 64, 64, steps=4, max_sequence_length=24)
    (item,) = world_items("test", 1)
    condition = sampler.encode(item.text, torch.from_numpy(item.image_HW3))
    clip = render_prompt(next(iter(world_prompts("test", 1)))).frames_THW3
    frames = (clip * 255).round().to(torch.uint8)
    shown = sampler.decode(sampler.encode_video(frames, condition))
    assert psnr(shown, frames) > 26
    # A video that the model made itself comes back as its own latents, nearly.
    (sample,) = sampler.sample(condition, [3])
    again = sampler.encode_video(sample.frames_THW3, condition)
    assert again.shape == sample.latents_FChw.shape
    assert psnr(sampler.decode(again), sample.frames_THW3) > 28
    first = (again[0] - sample.latents_FChw[0]).abs().mean() / sample.latents_FChw[0].abs().mean()
    assert first < 0.2


def test_a_video_of_another_size_is_a_mistake_of_the_caller(tiny_model: Path) -> None:
    sampler = load(tiny_model)
    condition = sampler.encode(TEXT, video()[0])
    with pytest.raises(ValueError, match=r"must be uint8 \(9, 32, 32, 3\), got torch.uint8 \(8, 32, 32, 3\)"):
        sampler.encode_video(video()[:8], condition)
    with pytest.raises(ValueError, match=r"got torch.float32"):
        sampler.encode_video(video().float(), condition)


def psnr(shown: Tensor, truth: Tensor) -> float:
    error = ((shown.float() - truth.float()) / 255).square().mean()
    return float(-10 * error.log10())
