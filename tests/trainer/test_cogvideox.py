"""The trainer's call of the model against what the real diffusers pipelines computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXImageToVideoPipeline, CogVideoXPipeline

from storage.errors import UserError
from trainer.families import Condition, PairShapes, load_family
from trainer.families.cogvideox import CogVideoXFamily

CHANNELS = 4
KINDS: dict[str, dict[str, Any]] = {
    "rotary": {},
    "sincos": {"use_rotary_positional_embeddings": False},
    "learned": {"use_learned_positional_embeddings": True},
    "ofs": {"ofs_embed_dim": 16},
    "text": {"in_channels": 4},
}


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLCogVideoX:
    torch.manual_seed(1)
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=CHANNELS,
        layers_per_block=1,
        norm_num_groups=2,
    ).eval()


def run_pipeline(
    vae: Any, transformer: Any, scheduler: Any, size: tuple[int, int], guidance: float
) -> list[tuple[dict[str, Any], torch.Tensor]]:
    """Inputs and output of the transformer at every step of a real pipeline run; size is (height, width)."""
    calls: list[tuple[dict[str, Any], torch.Tensor]] = []

    def hook(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        calls.append((dict(kwargs), output[0].clone()))

    generator = torch.Generator().manual_seed(3)
    options: dict[str, Any] = {
        "prompt_embeds": torch.randn(1, 5, 12, generator=generator),
        "negative_prompt_embeds": torch.randn(1, 5, 12, generator=generator),
        "height": size[0],
        "width": size[1],
        "num_frames": 9,
        "num_inference_steps": 4,
        "guidance_scale": guidance,
        "generator": generator,
        "output_type": "latent",
    }
    cls = CogVideoXPipeline
    if transformer.config.in_channels == 2 * CHANNELS:
        cls = CogVideoXImageToVideoPipeline
        options["image"] = torch.rand(1, 3, *size, generator=generator)
    pipe = cls(tokenizer=None, text_encoder=None, vae=vae, transformer=transformer, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    handle = transformer.register_forward_hook(hook, with_kwargs=True)
    pipe(**options)
    handle.remove()
    return calls


def replay(family: CogVideoXFamily, inputs: dict[str, Any], *, image_frames: int = 3) -> torch.Tensor:
    hidden = inputs["hidden_states"]
    image = hidden[:, :image_frames, CHANNELS:] if hidden.shape[2] > CHANNELS else None
    with torch.no_grad():
        return family.predict(
            family.transformer,
            hidden[:, :, :CHANNELS],
            inputs["timestep"],
            Condition(prompt_BLD=inputs["encoder_hidden_states"], image_BX=image),
        )


SIZES = [((32, 48), 3.0), ((48, 32), 1.0), ((64, 48), 1.0)]
CASES = [
    # Learned positions lock the size of the model.
    (kind, size, guidance)
    for kind in KINDS
    for size, guidance in (SIZES[:1] if kind == "learned" else SIZES)
]


@pytest.mark.parametrize(("kind", "size", "guidance"), CASES)
def test_prediction_equals_the_pipelines(
    kind: str,
    size: tuple[int, int],
    guidance: float,
    vae: Any,
    make_transformer: Callable[..., Any],
    make_scheduler: Callable[[], Any],
    make_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    transformer = make_transformer(**KINDS[kind])
    calls = run_pipeline(vae, transformer, make_scheduler(), size, guidance)
    family = load_family(make_model(tmp_path, transformer), torch.float32)
    assert len(calls) == 4
    for inputs, expected in calls:
        assert expected.abs().mean() > 0.01
        difference = (replay(family, inputs) - expected).abs().max().item()
        assert difference <= 1e-5
        if kind != "text":
            one_frame = replay(family, inputs, image_frames=1)
            assert torch.equal(one_frame, replay(family, inputs)), "padding over frames is the pipeline's"


def test_prediction_without_rotary_embedding_would_be_noticed(
    vae: Any, make_transformer: Callable[..., Any], make_scheduler: Callable[[], Any]
) -> None:
    transformer = make_transformer()
    inputs, expected = run_pipeline(vae, transformer, make_scheduler(), (32, 48), 1.0)[0]
    with torch.no_grad():
        wrong = transformer(**(inputs | {"image_rotary_emb": None}))[0]
    assert (wrong - expected).abs().max() > 1e-3


@pytest.mark.parametrize("timestep", [0, 17, 500, 998, 999])
def test_noise_and_target_are_the_schedulers(
    timestep: int, make_transformer: Callable[..., Any], make_scheduler: Callable[[], Any]
) -> None:
    family = CogVideoXFamily(make_transformer(), make_scheduler())
    fresh = make_scheduler()
    assert fresh.alphas_cumprod.dtype == torch.float64
    generator = torch.Generator().manual_seed(timestep)
    clean, noise = (torch.randn(2, 3, 4, 4, 6, generator=generator) for _ in range(2))
    timestep_B = torch.tensor([timestep, timestep])
    noised, target = family.noised(clean, noise, timestep_B)
    assert torch.equal(noised, fresh.add_noise(clean, noise, timestep_B))
    assert torch.equal(target, fresh.get_velocity(clean, noise, timestep_B))
    assert noised.dtype == target.dtype == torch.float32
    alpha = fresh.alphas_cumprod[timestep]
    recovered = alpha.sqrt() * noised.double() - (1 - alpha).sqrt() * target.double()
    assert (recovered - clean).abs().max() <= 1e-5


def test_target_is_what_the_samplers_step_inverts(
    make_transformer: Callable[..., Any], make_scheduler: Callable[[], Any]
) -> None:
    family = CogVideoXFamily(make_transformer(), make_scheduler())
    scheduler = make_scheduler()
    scheduler.set_timesteps(4)
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(1, 3, 4, 4, 6, generator=generator) for _ in range(2))
    timestep = scheduler.timesteps[1]
    noised, target = family.noised(clean, noise, timestep[None])
    _, implied = scheduler.step(target, None, timestep, scheduler.timesteps[0], noised, return_dict=False)
    assert torch.allclose(implied.float(), clean, atol=1e-5)


def test_bf16_latents_are_noised_in_fp32(
    make_transformer: Callable[..., Any], make_scheduler: Callable[[], Any]
) -> None:
    family = CogVideoXFamily(make_transformer(), make_scheduler())
    clean = torch.randn(1, 3, 4, 4, 6).bfloat16()
    noise = torch.randn(1, 3, 4, 4, 6)
    noised, _ = family.noised(clean, noise, torch.tensor([300]))
    assert torch.equal(noised, make_scheduler().add_noise(clean.float(), noise, torch.tensor([300])))


@pytest.mark.parametrize(
    ("latents", "prompt", "image", "message"),
    [
        ((3, 16, 4, 6), (5, 12), None, r"latents of shape \[3, 16, 4, 6\], this model takes \[F, 4, H, W\]"),
        ((3, 4, 5, 6), (5, 12), None, "H and W divisible by 2"),
        ((3, 4, 4, 6), (5, 13), None, r"prompt embeddings of shape \[5, 13\], this model takes \[L, 12\]"),
        ((3, 4, 4, 6), (5, 12), None, r"image latents of shape None, .* image-to-video"),
        ((3, 4, 4, 6), (5, 12), (2, 4, 4, 6), r"image latents of shape \[2, 4, 4, 6\]"),
    ],
)
def test_pairs_of_another_shape_are_refused(
    latents: tuple[int, ...],
    prompt: tuple[int, ...],
    image: tuple[int, ...] | None,
    message: str,
    make_transformer: Callable[..., Any],
    make_scheduler: Callable[[], Any],
) -> None:
    family = CogVideoXFamily(make_transformer(), make_scheduler())
    family.check(PairShapes(latent=(3, 4, 4, 6), prompt=(5, 12), image=(1, 4, 4, 6)))
    with pytest.raises(UserError, match=message):
        family.check(PairShapes(latent=latents, prompt=prompt, image=image))


def test_text_to_video_refuses_image_latents_and_learned_positions_lock_the_size(
    make_transformer: Callable[..., Any], make_scheduler: Callable[[], Any]
) -> None:
    text = CogVideoXFamily(make_transformer(in_channels=4), make_scheduler())
    text.check(PairShapes(latent=(3, 4, 4, 6), prompt=(5, 12)))
    with pytest.raises(UserError, match="none \\(a text-to-video model\\)"):
        text.check(PairShapes(latent=(3, 4, 4, 6), prompt=(5, 12), image=(1, 4, 4, 6)))
    learned = CogVideoXFamily(make_transformer(use_learned_positional_embeddings=True), make_scheduler())
    with pytest.raises(UserError, match="learned positions"):
        learned.check(PairShapes(latent=(3, 4, 6, 4), prompt=(5, 12), image=(1, 4, 6, 4)))


def test_unsupported_models_are_refused(
    make_transformer: Callable[..., Any],
    make_scheduler: Callable[[], Any],
    make_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match="patch_size_t 2"):
        CogVideoXFamily(make_transformer(patch_size_t=2), make_scheduler())
    epsilon = type(make_scheduler()).from_config(make_scheduler().config, prediction_type="epsilon")
    with pytest.raises(UserError, match="predicts 'epsilon'"):
        CogVideoXFamily(make_transformer(), epsilon)
    with pytest.raises(UserError, match="not a diffusers model folder"):
        load_family(tmp_path, torch.float32)
    directory = make_model(tmp_path / "other", make_transformer())
    index = directory / "model_index.json"
    index.write_text(index.read_text().replace("CogVideoXTransformer3DModel", "UNet2DModel"))
    with pytest.raises(UserError, match="class UNet2DModel, which cannot be trained"):
        load_family(directory, torch.float32)
    index.write_text(index.read_text().replace("UNet2DModel", "CogVideoXTransformer3DModel"))
    weights = directory / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        load_family(directory, torch.float32)
