"""The noise levels and targets of a Wan training against the schedulers of diffusers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny_wan import build, random_pair, scheduler
from trainer.families import load_family

ALL_DRAWS = torch.arange(1000)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wan"), "t2v")


def test_timesteps_and_noise_are_those_of_the_flow_matching_scheduler(model: Path) -> None:
    family, euler = load_family(model, torch.float32), scheduler("euler")
    timesteps = family.timestep(ALL_DRAWS)
    assert timesteps.dtype == torch.float32
    assert torch.allclose(timesteps, euler.timesteps.flip(0), rtol=1e-6, atol=0)
    for drawn in (0, 499, 999):
        clean, noise = random_pair(seed=drawn)
        timestep_B = euler.timesteps.flip(0)[drawn : drawn + 1]
        noised, target = family.noised(clean, noise, timestep_B)
        assert torch.allclose(noised, euler.scale_noise(clean, timestep_B, noise), atol=1e-6)
        assert torch.equal(target, noise - clean)
        assert torch.allclose(noised - timestep_B / 1000 * target, clean, atol=1e-5)


def test_timesteps_and_noise_are_those_of_unipc(model: Path) -> None:
    family, unipc = load_family(model, torch.float32), scheduler("unipc")
    timestep_index_B = torch.tensor([990, 700, 499, 100, 20])
    unipc.set_timesteps(sigmas=((timestep_index_B + 1) / 1000).numpy())
    clean, noise = random_pair(count=len(timestep_index_B))
    timestep_B = family.timestep(timestep_index_B)
    # The scheduler keeps the whole part of its timesteps only.
    assert torch.equal(timestep_B.long(), unipc.timesteps)
    noised, target = family.noised(clean, noise, timestep_B)
    assert torch.allclose(noised, unipc.add_noise(clean, noise, unipc.timesteps), atol=1e-5)
    sigma = timestep_B.view(-1, 1, 1, 1, 1) / 1000
    assert torch.allclose(noised - sigma * target, clean, atol=1e-5)


def test_target_is_what_the_samplers_step_inverts(model: Path) -> None:
    family, euler = load_family(model, torch.float32), scheduler("euler")
    euler.set_timesteps(1)
    clean, noise = random_pair()
    timestep = euler.timesteps[0]
    noised, target = family.noised(clean, noise, timestep[None])
    assert torch.allclose(euler.step(target, timestep, noised).prev_sample, clean, atol=1e-5)


def test_bf16_latents_are_noised_in_fp32(model: Path) -> None:
    family = load_family(model, torch.bfloat16)
    clean, noise = random_pair()
    timestep_B = family.timestep(torch.tensor([300]))
    found = family.noised(clean.bfloat16(), noise, timestep_B)
    wanted = family.noised(clean.bfloat16().float(), noise, timestep_B)
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
