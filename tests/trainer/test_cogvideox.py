"""The trainer's call of every kind of CogVideoX against what the real diffusers pipelines computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.cogvideox_kinds import CHANNELS, KINDS, make_scheduler, run_pipeline
from trainer.families import load_family
from trainer.families.base import Condition, PairShapes
from trainer.families.cogvideox import CogVideoXFamily

# Height and width in pixels, guidance, frames: 9 frames are 3 latent ones, which version 1.5 pads to 4.
RUNS = [((32, 48), 3.0, 9), ((48, 32), 1.0, 9), ((64, 48), 1.0, 13)]
CASES = [
    (name, *run)
    for name, kind in KINDS.items()
    # Learned positions lock the size of the model.
    for run in (RUNS[:1] if kind.fixed_size else RUNS)
]


def replay(family: CogVideoXFamily, inputs: dict[str, Any], *, image_frames: int | None = None) -> Any:
    """The family's prediction from what the pipeline fed the transformer."""
    hidden = inputs["hidden_states"]
    image = hidden[:, :image_frames, CHANNELS:] if hidden.shape[2] > CHANNELS else None
    with torch.no_grad():
        return family.predict(
            family.transformer,
            hidden[:, :, :CHANNELS],
            inputs["timestep"],
            Condition(prompt_BLD=inputs["encoder_hidden_states"], image_BX=image),
        )


@pytest.mark.parametrize(("name", "size", "guidance", "frames"), CASES)
def test_prediction_equals_the_pipelines(
    name: str, size: tuple[int, int], guidance: float, frames: int, make_transformer: Callable[..., Any]
) -> None:
    kind = KINDS[name]
    transformer, recorded = run_pipeline(
        kind, make_transformer, size, guidance=guidance, num_frames=frames, batch=2
    )
    family = CogVideoXFamily(transformer, make_scheduler(kind))
    assert len(recorded.calls) == 4
    for inputs, expected in recorded.calls:
        assert expected.abs().mean() > 0.01
        found = replay(family, inputs)
        assert found.shape == expected.shape
        assert torch.equal(found, expected)
        if kind.image:
            assert torch.equal(replay(family, inputs, image_frames=1), found), "padding over frames is theirs"
    inputs = recorded.calls[0][0]
    shapes = PairShapes(
        latent=tuple(recorded.latents.shape[1:]),
        prompt=tuple(inputs["encoder_hidden_states"].shape[1:]),
        image=tuple(recorded.latents.shape[1:]) if kind.image else None,
        num_frames=frames,
    )
    family.check(shapes)
    counted = family.loss_weight(shapes)
    padded = "patch_size_t" in kind.transformer and frames == 9
    assert (counted is None) != padded


@pytest.mark.parametrize("name", ["2b", "5b i2v", "1.5 i2v"])
def test_a_saved_model_predicts_the_same(
    name: str, make_transformer: Callable[..., Any], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    transformer, recorded = run_pipeline(KINDS[name], make_transformer, (32, 48))
    family = load_family(make_model(tmp_path, transformer), torch.float32)
    assert isinstance(family, CogVideoXFamily)
    inputs, expected = recorded.calls[2]
    assert (replay(family, inputs) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("name", ["5b", "5b i2v", "1.5", "1.5 i2v"])
def test_prediction_without_rotary_embedding_would_be_noticed(
    name: str, make_transformer: Callable[..., Any]
) -> None:
    transformer, recorded = run_pipeline(KINDS[name], make_transformer, (32, 48))
    inputs, expected = recorded.calls[0]
    with torch.no_grad():
        wrong = transformer(**(inputs | {"image_rotary_emb": None}))[0]
    assert (wrong - expected).abs().max() > 1e-3


def test_the_offset_of_version_1_5_is_two(make_transformer: Callable[..., Any]) -> None:
    transformer, recorded = run_pipeline(KINDS["1.5 i2v"], make_transformer, (32, 48))
    inputs, expected = recorded.calls[0]
    assert torch.equal(inputs["ofs"], torch.tensor([2.0]))
    with torch.no_grad():
        wrong = transformer(**(inputs | {"ofs": torch.tensor([0.0])}))[0]
    assert (wrong - expected).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["2b", "2b dpm", "5b", "5b ddim"])
@pytest.mark.parametrize("timestep", [0, 17, 500, 998, 999])
def test_noise_and_target_are_the_schedulers(
    name: str, timestep: int, make_transformer: Callable[..., Any]
) -> None:
    kind = KINDS[name]
    family = CogVideoXFamily(make_transformer(**kind.transformer), make_scheduler(kind))
    fresh = make_scheduler(kind)
    assert fresh.alphas_cumprod.dtype == torch.float64
    generator = torch.Generator().manual_seed(timestep)
    clean, noise = (torch.randn(2, 3, 4, 4, 6, generator=generator) for _ in range(2))
    timestep_B = family.timestep(torch.tensor([timestep, timestep]))
    noised, target = family.noised(clean, noise, timestep_B)
    assert torch.equal(noised, fresh.add_noise(clean, noise, timestep_B))
    assert torch.equal(target, fresh.get_velocity(clean, noise, timestep_B))
    assert noised.dtype == target.dtype == torch.float32
    alpha = fresh.alphas_cumprod[timestep]
    recovered = alpha.sqrt() * noised.double() - (1 - alpha).sqrt() * target.double()
    assert (recovered - clean).abs().max() <= 1e-5


def test_the_shift_of_the_signal_to_noise_ratio_is_the_checkpoints(
    make_transformer: Callable[..., Any],
) -> None:
    noise = torch.randn(1, 3, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    middle = torch.tensor([500])
    signal = {}
    for name in ("2b", "5b"):
        family = CogVideoXFamily(make_transformer(), make_scheduler(KINDS[name]))
        signal[name] = family.noised(torch.ones_like(noise), noise, middle)[0].mean().item()
    assert signal["2b"] < signal["5b"] - 0.1


@pytest.mark.parametrize("name", ["2b", "2b dpm", "5b", "5b ddim"])
def test_target_is_what_the_samplers_step_inverts(name: str, make_transformer: Callable[..., Any]) -> None:
    kind = KINDS[name]
    family = CogVideoXFamily(make_transformer(), make_scheduler(kind))
    scheduler = make_scheduler(kind)
    scheduler.set_timesteps(4)
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(1, 3, 4, 4, 6, generator=generator) for _ in range(2))
    timestep = scheduler.timesteps[1]
    noised, target = family.noised(clean, noise, timestep[None])
    if kind.scheduler == "ddim":
        implied = scheduler.step(target, timestep, noised).pred_original_sample
    else:
        _, implied = scheduler.step(target, None, timestep, scheduler.timesteps[0], noised, return_dict=False)
    assert torch.allclose(implied.float(), clean, atol=1e-5)


def test_the_noise_is_the_target_of_an_epsilon_model(make_transformer: Callable[..., Any]) -> None:
    plain = make_scheduler(KINDS["2b"])
    scheduler = type(plain).from_config(plain.config, prediction_type="epsilon")
    family = CogVideoXFamily(make_transformer(), scheduler)
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(1, 3, 4, 4, 6, generator=generator) for _ in range(2))
    timestep = torch.tensor([400])
    noised, target = family.noised(clean, noise, timestep)
    assert torch.equal(noised, make_scheduler(KINDS["2b"]).add_noise(clean, noise, timestep))
    alpha = scheduler.alphas_cumprod[400].double()
    recovered = (noised.double() - (1 - alpha).sqrt() * target.double()) / alpha.sqrt()
    assert (recovered - clean).abs().max() <= 1e-4


def test_bf16_latents_are_noised_in_fp32(make_transformer: Callable[..., Any]) -> None:
    family = CogVideoXFamily(make_transformer(), make_scheduler(KINDS["5b"]))
    clean = torch.randn(1, 3, 4, 4, 6).bfloat16()
    noise = torch.randn(1, 3, 4, 4, 6)
    noised, _ = family.noised(clean, noise, torch.tensor([300]))
    fresh = make_scheduler(KINDS["5b"])
    assert torch.equal(noised, fresh.add_noise(clean.float(), noise, torch.tensor([300])))
