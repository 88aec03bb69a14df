"""The sampler against diffusers' own pipeline, called as its documentation says.

Legend: B batch, F latent frames, C channels, h w latent cells, T frames, H W pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline
from PIL import Image
from torch import Tensor

from pipeline.models import resolve_model
from pipeline.sampling.fit import require_fit
from pipeline.sampling.sampler import Sampler
from pipeline.sampling.samplers import make_sampler
from pipeline.sampling.settings import SamplerSettings
from storage.errors import UserError
from tests.pipeline.tiny import SAMPLER, build
from trainer.families import load_family
from trainer.families.base import Condition, PairShapes

TEXT = "a quiet hall"


def image() -> Tensor:
    return torch.randint(0, 256, (40, 56, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def load(folder: Path, **changes: Any) -> Any:
    torch.set_num_threads(1)
    sampler: Sampler = make_sampler(resolve_model(str(folder)), SamplerSettings(**{**SAMPLER, **changes}))
    sampler.setup()
    return sampler


@pytest.fixture(scope="module")
def sampler(tiny_model: Path) -> Any:
    return load(tiny_model)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_one_candidate_is_what_the_stock_pipeline_makes(tiny_model: Path, guidance: float) -> None:
    sampler = load(tiny_model, guidance=guidance)
    (sample,) = sampler.sample(sampler.encode(TEXT, image()), [5])
    stock = CogVideoXImageToVideoPipeline.from_pretrained(tiny_model)
    noise = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    called = {
        "image": Image.fromarray(image().numpy()),
        "prompt": TEXT,
        "latents": noise,
        "height": 32,
        "width": 32,
        "num_frames": 9,
        "num_inference_steps": 2,
        "guidance_scale": guidance,
        "max_sequence_length": SAMPLER["max_sequence_length"],
    }
    # The stock pipeline spends its generator on the posterior of the image alone, when latents are given.
    latents = stock(**called, generator=torch.Generator().manual_seed(0), output_type="latent").frames[0]
    assert torch.equal(sample.latents_FChw, latents)
    frames = stock(**called, generator=torch.Generator().manual_seed(0), output_type="np").frames[0]
    assert torch.equal(sample.frames_THW3, torch.from_numpy(frames * 255).round().to(torch.uint8))


def test_kept_latents_decode_to_the_saved_frames(sampler: Any) -> None:
    samples = sampler.sample(sampler.encode(TEXT, image()), [1, 2, 3])
    for sample in samples:
        assert sample.latents_FChw.dtype == torch.float32
        assert torch.equal(sampler.decode(sample.latents_FChw), sample.frames_THW3)


def test_a_candidate_depends_on_its_seed_and_not_on_its_place(sampler: Any) -> None:
    condition = sampler.encode(TEXT, image())
    forth = [sample.latents_FChw for sample in sampler.sample(condition, [1, 2])]
    back = [sample.latents_FChw for sample in sampler.sample(condition, [2, 1])]
    assert torch.equal(forth[0], back[1])
    assert torch.equal(forth[1], back[0])
    assert not torch.allclose(forth[0], forth[1], atol=0.1)


def test_the_kept_condition_is_what_the_transformer_is_given(sampler: Any) -> None:
    condition = sampler.encode(TEXT, image())
    given: list[dict[str, Tensor]] = []
    hook = sampler.pipe.transformer.register_forward_pre_hook(
        lambda _module, _args, kwargs: given.append(dict(kwargs)), with_kwargs=True
    )
    sampler.sample(condition, [1, 2])
    hook.remove()
    kept = condition.tensors()
    assert set(kept) == {"prompt_embeds", "image_latents"}
    for call in given:
        image_BFChw = call["hidden_states"].chunk(2, dim=2)[1]
        for entry in range(2):
            assert torch.equal(image_BFChw[entry], kept["image_latents"])
            assert torch.equal(call["encoder_hidden_states"][entry], kept["prompt_embeds"])
    assert torch.equal(kept["image_latents"], sampler.encode(TEXT, image()).image_latents_FChw)
    assert kept["image_latents"][1:].abs().max() == 0


def test_latents_that_are_not_finite_give_a_reason_and_no_frames(tiny_model: Path) -> None:
    sampler = load(tiny_model)
    with torch.no_grad():
        sampler.pipe.transformer.proj_out.bias[0] = float("nan")
    (sample,) = sampler.sample(sampler.encode(TEXT, image()), [1])
    assert sample.frames_THW3 is None
    assert sample.reason.startswith("latents hold ")
    assert "NaN" in sample.reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 40}, "`height` 40 does not fit model 'tiny': use a multiple of 16"),
        ({"num_frames": 10}, "`num_frames` 10 does not fit model 'tiny': use 1 more than a multiple of 8"),
        # 4 latent frames, of which the VAE makes 16.
        ({"num_frames": 13}, "`num_frames` 13 does not fit model 'tiny': use 1 more than a multiple of 8"),
    ],
)
def test_sizes_that_do_not_fit_are_named(tiny_model: Path, changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(tiny_model, **changes)
    # The folder says the same before anything of it is loaded.
    with pytest.raises(UserError, match=message):
        require_fit(resolve_model(str(tiny_model)), SamplerSettings(**SAMPLER | changes))


def test_a_prompt_without_a_first_frame_is_named(sampler: Any) -> None:
    with pytest.raises(UserError, match="has no first frame, which model 'tiny' needs"):
        sampler.encode(TEXT, None)


@pytest.mark.parametrize(("num_frames", "latent_frames"), [(9, 4), (17, 6)])
@pytest.mark.parametrize("text_only", [True, False])
def test_version_1_5_is_padded_in_front_and_decodes_without_the_padding(
    text_only: bool, num_frames: int, latent_frames: int, tmp_path: Path
) -> None:
    folder = build(tmp_path / "new", text_only=text_only, version_1_5=True)
    sampler = load(folder, num_frames=num_frames)
    picture = None if text_only else image()
    condition = sampler.encode(TEXT, picture)
    samples = sampler.sample(condition, [1, 2])
    stock = (CogVideoXPipeline if text_only else CogVideoXImageToVideoPipeline).from_pretrained(folder)
    noises = [
        torch.randn(1, latent_frames, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 2)
    ]
    called: dict[str, Any] = {
        "prompt": TEXT,
        "height": 32,
        "width": 32,
        "num_frames": num_frames,
        "num_inference_steps": 2,
        "guidance_scale": 1.0,
        "max_sequence_length": SAMPLER["max_sequence_length"],
    }
    if not text_only:
        called["image"] = Image.fromarray(image().numpy())
    for sample, noise in zip(samples, noises, strict=True):
        # The stock pipeline spends its generator on the posterior of the image alone, when latents are given.
        called |= {"latents": noise, "generator": torch.Generator().manual_seed(0)}
        latents = stock(**called, output_type="latent").frames[0]
        assert sample.latents_FChw.shape == latents.shape == (latent_frames, 4, 4, 4)
        assert torch.allclose(sample.latents_FChw, latents, atol=1e-5)
        called["generator"] = torch.Generator().manual_seed(0)
        frames = torch.from_numpy(stock(**called, output_type="np").frames[0] * 255).round()
        assert sample.frames_THW3.shape == (num_frames, 32, 32, 3)
        assert (sample.frames_THW3.float() - frames).abs().max() <= 1
        assert torch.equal(sampler.decode(sample.latents_FChw), sample.frames_THW3)
    if not text_only:
        kept = condition.tensors()["image_latents"]
        assert kept.shape == samples[0].latents_FChw.shape
        assert kept[0].abs().max() > 0
        assert kept[1:].abs().max() == 0


@pytest.mark.parametrize("text_only", [True, False])
@pytest.mark.parametrize("version_1_5", [True, False])
def test_the_trainer_predicts_what_the_sampler_did_from_what_it_kept(
    text_only: bool, version_1_5: bool, tmp_path: Path
) -> None:
    folder = build(tmp_path / "model", text_only=text_only, version_1_5=version_1_5)
    sampler = load(folder)
    calls: list[tuple[dict[str, Any], Tensor]] = []
    hook = sampler.pipe.transformer.register_forward_hook(
        lambda _module, _args, kwargs, output: calls.append((dict(kwargs), output[0].clone())),
        with_kwargs=True,
    )
    condition = sampler.encode(TEXT, None if text_only else image())
    samples = sampler.sample(condition, [1, 2])
    hook.remove()
    family = load_family(folder, torch.float32)
    kept = {
        name: tensor.unsqueeze(0).expand(2, *tensor.shape) for name, tensor in condition.tensors().items()
    }
    given = Condition(prompt_BLD=kept["prompt_embeds"], image_BX=kept.get("image_latents"))
    shapes = PairShapes(
        latent=tuple(samples[0].latents_FChw.shape),
        prompt=tuple(kept["prompt_embeds"].shape[1:]),
        image=None if text_only else tuple(kept["image_latents"].shape[1:]),
        num_frames=9,
    )
    family.check(shapes)
    counted = family.loss_weight(shapes)
    assert (None if counted is None else counted.flatten().tolist()) == (
        [0, 1, 1, 1] if version_1_5 else None
    )
    assert len(calls) == 2
    for inputs, expected in calls:
        noised = inputs["hidden_states"][:, :, :4]
        with torch.no_grad():
            found = family.predict(family.transformer, noised, inputs["timestep"], given)
        assert (found - expected).abs().max() <= 1e-5


def test_text_to_video_needs_no_image(tmp_path: Path) -> None:
    sampler = load(build(tmp_path / "t2v", text_only=True))
    condition = sampler.encode(TEXT, None)
    (sample,) = sampler.sample(condition, [1])
    assert set(condition.tensors()) == {"prompt_embeds"}
    assert sample.frames_THW3.shape == (9, 32, 32, 3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", 0, "steps must be at least 1, got 0"),
        ("guidance", -1.0, "guidance must be 0 or more"),
        ("precision", "int8", "precision must be one of"),
    ],
)
def test_settings_are_validated(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplerSettings(**{**SAMPLER, name: value})
