"""The trainer's call of Wan models against what the real diffusers pipelines computed.

Legend: B samples, C latent channels, F latent frames, H W latent cells.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from PIL import Image
from torch import Tensor

from tests.tiny_wan import (
    CHANNELS,
    FRAMES,
    KINDS,
    TOKENS,
    Kind,
    build,
    latent_shape,
    random_pair,
    record_calls,
    size,
)
from trainer.families import load_family
from trainer.families.base import Condition, PairShapes
from trainer.lora import attach_lora, lora_parameters, lora_state
from trainer.saving.export import export_adapter
from trainer.step import Noised, per_sample_mse

# Kind of model, and whether a video starts from a first frame.
CASES: list[tuple[Kind, bool]] = [("t2v", False), ("i2v", True), ("ti2v", False), ("ti2v", True)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Path]:
    folder = tmp_path_factory.mktemp("wan")
    return {kind: build(folder / kind, kind) for kind in KINDS}


def run_pipeline(
    folder: Path, kind: Kind, from_image: bool, guidance: float = 1.0, dtype: torch.dtype = torch.float32
) -> list[tuple[dict[str, Any], Tensor]]:
    """MicroBatch and output of the transformer at every step of a run of the stock pipeline."""
    cls = WanImageToVideoPipeline if from_image else WanPipeline
    pipe = cls.from_pretrained(folder, torch_dtype={"vae": torch.float32, "default": dtype})
    pipe.set_progress_bar_config(disable=True)
    height, width = size(kind)
    called: dict[str, Any] = {"prompt": "a quiet hall", "height": height, "width": width}
    called |= {"num_frames": FRAMES, "num_inference_steps": 4, "guidance_scale": guidance}
    called |= {"max_sequence_length": TOKENS, "generator": torch.Generator().manual_seed(3)}
    if from_image:
        pixels = torch.randint(0, 256, (40, 56, 3), generator=torch.Generator().manual_seed(1))
        called["image"] = Image.fromarray(pixels.to(torch.uint8).numpy())
    return record_calls(pipe.transformer, lambda: pipe(**called, output_type="latent"))


def given_of(kind: Kind, from_image: bool, inputs: dict[str, Any]) -> tuple[Tensor, Tensor, Condition]:
    """Noisy latents, timestep and condition, taken apart from what the pipeline fed the transformer."""
    hidden, image = inputs["hidden_states"], None
    latents = hidden[:, :CHANNELS]
    if kind == "i2v":
        image = hidden[:, CHANNELS:]
    elif from_image:
        image, latents = hidden[:, :, :1], latents.clone()
        latents[:, :, 0] = 7.0  # the sampler's first frame is noise, which the model never sees
    condition = Condition(
        prompt_BLD=inputs["encoder_hidden_states"],
        image_BX=image,
        image_embeds_BLD=inputs.get("encoder_hidden_states_image"),
    )
    return latents, inputs["timestep"].reshape(len(hidden), -1)[:, -1], condition


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize(("kind", "from_image"), CASES)
def test_prediction_equals_the_pipelines(
    models: dict[Kind, Path], kind: Kind, from_image: bool, guidance: float
) -> None:
    calls = run_pipeline(models[kind], kind, from_image, guidance)
    family = load_family(models[kind], torch.float32)
    assert len(calls) == (8 if guidance > 1 else 4)
    for inputs, expected in calls:
        latents, timestep_B, condition = given_of(kind, from_image, inputs)
        assert (latents.shape[1:], expected.shape) == (latent_shape(kind), latents.shape)
        assert expected.abs().mean() > 0.01
        with torch.no_grad():
            found = family.predict(family.transformer, latents, timestep_B, condition)
            other = family.predict(family.transformer, latents, timestep_B * 0.9, condition)
        assert (found - expected).abs().max() <= 1e-5
        assert (other - expected).abs().max() > 1e-4, "another timestep would be noticed"


@pytest.mark.parametrize(("kind", "from_image"), CASES)
def test_prediction_in_bf16_equals_the_pipelines_adapter_or_not(
    models: dict[Kind, Path], kind: Kind, from_image: bool
) -> None:
    calls = run_pipeline(models[kind], kind, from_image, dtype=torch.bfloat16)
    family = load_family(models[kind], torch.bfloat16)
    attach_lora(family.transformer, 2, 4, family.lora_targets, seed=0)
    for inputs, expected in calls:
        with torch.no_grad():
            found = family.predict(family.transformer, *given_of(kind, from_image, inputs))
        assert (expected.dtype, found.dtype) == (torch.bfloat16, torch.float32)
        assert torch.equal(found, expected.float())


def test_two_samples_are_predicted_as_each_alone(models: dict[Kind, Path]) -> None:
    family = load_family(models["ti2v"], torch.float32)
    latents, prompt, image = (
        torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
        for shape in (latent_shape("ti2v"), (TOKENS, 16), (CHANNELS, 1, 4, 4))
    )
    timestep_B = family.timestep(torch.tensor([100, 900]))

    def predicted(rows: slice) -> Tensor:
        condition = Condition(prompt_BLD=prompt[rows], image_BX=image[rows])
        with torch.no_grad():
            return family.predict(family.transformer, latents[rows], timestep_B[rows], condition)

    both = predicted(slice(0, 2))
    for row in range(2):
        assert torch.allclose(both[row], predicted(slice(row, row + 1))[0], atol=1e-5)


def condition_of(kind: Kind, from_image: bool) -> Condition:
    generator = torch.Generator().manual_seed(5)
    channels, frames, *cells = latent_shape(kind)
    shape = (channels + 4, frames, *cells) if kind == "i2v" else (channels, 1, *cells)
    return Condition(
        prompt_BLD=torch.randn(1, TOKENS, 16, generator=generator),
        image_BX=torch.randn(1, *shape, generator=generator) if from_image else None,
        image_embeds_BLD=torch.randn(1, 5, 20, generator=generator) if kind == "i2v" else None,
    )


def test_a_clean_first_frame_does_not_enter_the_error(models: dict[Kind, Path]) -> None:
    family = load_family(models["ti2v"], torch.float32)
    shapes = PairShapes(latent=latent_shape("ti2v"), prompt=(TOKENS, 16), image=(CHANNELS, 1, 4, 4))
    loss_weight_X = family.loss_weight(shapes)
    assert loss_weight_X is not None
    assert family.loss_weight(PairShapes(latent=shapes.latent, prompt=shapes.prompt)) is None
    clean, noise = random_pair("ti2v")
    other = clean.clone()
    other[:, :, 0] += 3.0

    def error(clean: Tensor, loss_weight_X: Tensor | None) -> Tensor:
        timestep_N = family.timestep(torch.tensor([500]))
        noised_NX, target_NX = family.noised(clean, noise, timestep_N)
        condition = condition_of("ti2v", True)
        given = Noised(noised_NX=noised_NX, target_NX=target_NX, timestep_N=timestep_N,
                       condition=condition, loss_weight_X=loss_weight_X)  # fmt: skip
        with torch.no_grad():
            return per_sample_mse(family, family.transformer, given)

    assert torch.equal(error(clean, loss_weight_X), error(other, loss_weight_X))
    assert not torch.allclose(error(clean, None), error(other, None), rtol=0.1)


@pytest.mark.parametrize(("kind", "from_image"), CASES)
def test_gradient_checkpointing_gives_the_same_gradients(
    models: dict[Kind, Path], kind: Kind, from_image: bool
) -> None:
    gradients: list[dict[str, Tensor]] = []
    for checkpointing in (False, True):
        family = load_family(models[kind], torch.float32)
        adapted(family)
        if checkpointing:
            family.transformer.enable_gradient_checkpointing()
        family.transformer.train()
        forwards: list[int] = []
        family.transformer.blocks[0].ffn.register_forward_hook(lambda *_, seen=forwards: seen.append(1))
        clean, _ = random_pair(kind)
        found = family.predict(
            family.transformer, clean, torch.tensor([400.0]), condition_of(kind, from_image)
        )
        found.square().mean().backward()
        assert len(forwards) == (2 if checkpointing else 1)
        parameters = lora_parameters(family.transformer)
        gradients.append({name: p.grad for name, p in parameters.items() if p.grad is not None})
        assert len(gradients[-1]) == len(parameters)
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-7) for name in gradients[0])
    assert max(gradient.abs().max() for gradient in gradients[0].values()) > 1e-4


def adapted(family: Any) -> None:
    """Attach an adapter that is not at its start, where it changes nothing."""
    attach_lora(family.transformer, 2, 8, family.lora_targets, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in lora_parameters(family.transformer).items():
            if "lora_B" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize(("kind", "from_image"), CASES)
def test_an_exported_adapter_changes_the_pipeline_as_it_changed_the_model(
    models: dict[Kind, Path], tmp_path: Path, kind: Kind, from_image: bool
) -> None:
    family = load_family(models[kind], torch.float32)
    adapted(family)
    export_adapter(
        tmp_path,
        lora_state(family.transformer),
        component=family.component,
        base=("tiny", "r1"),
        family=family.name,
        rank=2,
        alpha=8,
        targets=family.lora_targets,
        training={},
    )
    pipe = (WanImageToVideoPipeline if from_image else WanPipeline).from_pretrained(models[kind])
    given = (random_pair(kind)[0], torch.tensor([400.0]), condition_of(kind, from_image))

    def output(transformer: Any) -> Tensor:
        with torch.no_grad():
            return family.predict(transformer, *given)

    trained, base = output(family.transformer), output(pipe.transformer)
    pipe.load_lora_weights(tmp_path)
    assert (trained - base).abs().max() > 1e-3
    assert torch.allclose(output(pipe.transformer), trained, atol=1e-6)
    pipe.unload_lora_weights()
    assert torch.equal(output(pipe.transformer), base)
