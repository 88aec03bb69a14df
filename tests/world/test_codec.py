"""The codec keeps held-out clips, finds the true motion, and speaks the interface of the real pipeline."""

from __future__ import annotations

import pytest
import torch
from diffusers import CogVideoXImageToVideoPipeline
from torch import Tensor
from torch.nn import functional as F

from pipeline.world.cameras import camera_path
from pipeline.world.clips import render_prompt, world_prompts
from pipeline.world.codec import BLOCK, MotionCodec
from pipeline.world.motion import flow_to_first
from pipeline.world.render import Clip, render
from pipeline.world.scenes import make_scene


def first_image(scene_id: str) -> Tensor:
    scene = make_scene(scene_id)
    return render(scene, camera_path(scene, "tilt_up", 0)[:1], 64).frames_THW3[0].permute(2, 0, 1) * 2 - 1


@pytest.fixture(scope="module")
def codec() -> MotionCodec:
    """Fitted on train scenes only."""
    codec = MotionCodec()
    codec.fit(torch.stack([first_image(prompt.scene_id) for prompt in world_prompts("train", 60)]))
    return codec


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    """Moves of three kinds in scenes that the codec was not fitted on."""
    return [render_prompt(prompt) for prompt in world_prompts("test", 5)[::2]]


@pytest.fixture(scope="module")
def videos(clips: list[Clip]) -> Tensor:
    return torch.stack([clip.frames_THW3.permute(3, 0, 1, 2) * 2 - 1 for clip in clips])


@pytest.fixture(scope="module")
def latents(codec: MotionCodec, videos: Tensor) -> Tensor:
    return codec.encode(videos).latents


def decibels(shown: Tensor, truth: Tensor) -> float:
    """Of images in [-1, 1]."""
    return float(-10 * ((shown - truth) / 2).square().mean().log10())


def test_round_trip_of_held_out_clips(codec: MotionCodec, videos: Tensor, latents: Tensor) -> None:
    decoded = codec.decode(latents).sample
    assert decoded.shape == videos.shape
    for shown, truth in zip(decoded, videos, strict=True):
        assert sum(decibels(shown[:, t], truth[:, t]) for t in range(9)) / 9 >= 27
        # The last frame is where standing still costs most: motion must explain most of it.
        assert decibels(shown[:, 8], truth[:, 8]) > decibels(truth[:, 0], truth[:, 8]) + 4


def test_first_frame_is_the_best_linear_code_of_its_blocks() -> None:
    images = torch.stack([first_image(prompt.scene_id) for prompt in world_prompts("train", 8)])
    codec = MotionCodec()
    codec.fit(images)
    coded = codec.encode_image(images)
    assert coded.shape == (8, 16, 16, 16)
    # Oracle: the eigenvalues of the covariance that 16 components leave out are the error, exactly.
    blocks = F.pixel_unshuffle(images, BLOCK).permute(0, 2, 3, 1).reshape(-1, 48).double()
    left_out = torch.linalg.eigvalsh(torch.cov(blocks.T, correction=0)).flip(0)[16:].sum()
    error = (codec.decode_image(coded) - images).square().sum() / len(blocks)
    assert float(error) == pytest.approx(float(left_out), rel=1e-3)
    # Coefficients of the images it was fitted on have unit variance and no mean.
    assert torch.allclose(coded.std(dim=(0, 2, 3), correction=0), torch.ones(16), atol=1e-2)
    assert torch.allclose(coded.mean(dim=(0, 2, 3)), torch.zeros(16), atol=1e-2)


def test_motion_is_the_true_flow_where_the_first_frame_shows_the_surface(
    codec: MotionCodec, clips: list[Clip], latents: Tensor
) -> None:
    motion = codec.motion_of(latents)
    for index, clip in enumerate(clips):
        flow, visible = flow_to_first(clip)
        share = F.avg_pool2d(visible[1:].float()[:, None], BLOCK)[:, 0]
        true = F.avg_pool2d(flow[1:].permute(0, 3, 1, 2), BLOCK)
        error = (motion[index] - true).norm(dim=1)[share == 1]
        assert len(error) > 500
        # Half a pixel; the same clip moves by several, so standing still would fail.
        assert error.median() < 0.5
        assert true.norm(dim=1)[share == 1].median() > 1.0


def test_latents_of_a_steady_camera_are_of_unit_size(latents: Tensor) -> None:
    assert latents.shape == (3, 16, 2, 16, 16)
    assert 0.3 < float(latents[:, :, 1].std()) < 3


def test_encoding_is_deterministic_and_leaves_the_video_alone(codec: MotionCodec, videos: Tensor) -> None:
    before = videos[:1].clone()
    with torch.inference_mode(False), torch.no_grad():
        assert torch.equal(codec.encode(videos[:1]).latents, codec.encode(videos[:1]).latents)
    assert torch.equal(before, videos[:1])


def test_the_real_pipeline_decodes_to_the_same_video(codec: MotionCodec, latents: Tensor) -> None:
    pipeline = CogVideoXImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=codec, transformer=None, scheduler=None
    )
    assert (pipeline.vae_scale_factor_spatial, pipeline.vae_scale_factor_temporal) == (4, 8)
    decoded = pipeline.decode_latents(latents.permute(0, 2, 1, 3, 4))
    assert torch.equal(decoded, codec.decode(latents).sample)


def test_a_single_image_is_a_video_of_one_frame(codec: MotionCodec, videos: Tensor) -> None:
    coded = codec.encode(videos[:, :, :1]).latents
    assert coded.shape == (3, 16, 1, 16, 16)
    assert torch.equal(coded[:, :, 0], codec.encode_image(videos[:, :, 0]))


@pytest.mark.parametrize("shape", [(1, 3, 8, 64, 64), (1, 3, 9, 62, 64), (1, 3, 9, 64, 30)])
def test_sizes_that_do_not_fit_are_refused(codec: MotionCodec, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"1 \+ 8n frames and sides divisible by 4, got"):
        codec.encode(torch.zeros(shape))


def test_a_wrong_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"latent_channels must be 16 .* got 8"):
        MotionCodec(latent_channels=8)
