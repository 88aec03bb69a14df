"""The Wan samplers against diffusers' own pipelines, called as their documentation says.

Legend: B batch, C latent channels, F latent frames, h w latent cells, T frames, H W pixels.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from PIL import Image
from torch import Tensor

from pipeline.models import resolve_model
from pipeline.sampling.fit import require_fit
from pipeline.sampling.sample import plan_sample
from pipeline.sampling.samplers import make_sampler
from pipeline.sampling.settings import SamplerSettings, SampleSettings
from storage.errors import UserError
from tests.conftest import write_prompts
from tests.tiny_wan import FRAMES, KINDS, TOKENS, Kind, build, latent_shape, record_calls, size
from trainer.families import load_family
from trainer.families.base import Condition, PairShapes

TEXT = "a quiet hall"
# Kind of model, whether it starts from a first frame, and its scheduler.
CASES: list[tuple[Kind, bool]] = [("t2v", False), ("i2v", True), ("ti2v", False), ("ti2v", True)]
SCHEDULERS: dict[Kind, Any] = {"t2v": "unipc", "i2v": "euler", "ti2v": "unipc"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Path]:
    folder = tmp_path_factory.mktemp("wan")
    return {kind: build(folder / kind, kind, SCHEDULERS[kind]) for kind in KINDS}


@pytest.fixture(scope="module")
def samplers(models: dict[Kind, Path]) -> dict[Kind, Any]:
    return {kind: load(path, kind) for kind, path in models.items()}


def settings(kind: Kind, **changes: Any) -> SamplerSettings:
    height, width = size(kind)
    given: dict[str, Any] = {
        "steps": 3,
        "guidance": 4.0,
        "height": height,
        "width": width,
        "num_frames": FRAMES,
        "fps": 16,
        "max_sequence_length": TOKENS,
    }
    return SamplerSettings(**(given | changes))


def load(folder: Path, kind: Kind, **changes: Any) -> Any:
    torch.set_num_threads(1)
    sampler = make_sampler(resolve_model(str(folder)), settings(kind, **changes))
    sampler.setup()
    return sampler


def image(from_image: bool) -> Tensor | None:
    if not from_image:
        return None
    return torch.randint(0, 256, (40, 56, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize(("kind", "from_image"), CASES)
def test_one_candidate_is_what_the_stock_pipeline_makes(
    models: dict[Kind, Path], kind: Kind, from_image: bool, guidance: float
) -> None:
    sampler = load(models[kind], kind, guidance=guidance)
    (sample,) = sampler.sample(sampler.encode(TEXT, image(from_image)), [5])
    stock = (WanImageToVideoPipeline if from_image else WanPipeline).from_pretrained(models[kind])
    stock.set_progress_bar_config(disable=True)
    height, width = size(kind)
    called: dict[str, Any] = {
        "prompt": TEXT,
        "height": height,
        "width": width,
        "num_frames": FRAMES,
        "num_inference_steps": 3,
        "guidance_scale": guidance,
        "max_sequence_length": TOKENS,
    }
    first = image(from_image)
    if first is not None:
        called["image"] = Image.fromarray(first.numpy())
    latents = stock(**called, generator=torch.Generator().manual_seed(5), output_type="latent").frames[0]
    assert latents.shape == latent_shape(kind)
    assert torch.equal(sample.latents_FChw, latents)
    frames = stock(**called, generator=torch.Generator().manual_seed(5), output_type="np").frames[0]
    assert sample.frames_THW3.float().std() > 1
    assert torch.equal(sample.frames_THW3, torch.from_numpy(frames * 255).round().to(torch.uint8))


@pytest.mark.parametrize(("kind", "from_image"), CASES)
def test_a_candidate_is_its_seeds_whatever_batch_it_is_in(
    samplers: dict[Kind, Any], kind: Kind, from_image: bool
) -> None:
    sampler = samplers[kind]
    condition = sampler.encode(TEXT, image(from_image))
    encodings = []
    handle = sampler.pipe.vae.encoder.register_forward_hook(lambda *_: encodings.append(1))
    together = sampler.sample(condition, [1, 2, 3])
    handle.remove()
    assert not encodings, "the first frame is encoded once per prompt"
    for seed, sample in zip([1, 2, 3], together, strict=True):
        (alone,) = sampler.sample(condition, [seed])
        assert (sample.latents_FChw - alone.latents_FChw).abs().max() <= 1e-5
        assert sample.latents_FChw.dtype == torch.float32
        assert torch.equal(sampler.decode(sample.latents_FChw), sample.frames_THW3)
    different = together[0].latents_FChw - together[1].latents_FChw
    assert different[:, 1:].abs().max() > 0.1
    if kind == "ti2v" and from_image:
        assert torch.equal(together[0].latents_FChw[:, :1], condition.image_latents_FChw)


@pytest.mark.parametrize(("kind", "from_image"), CASES)
def test_the_trainer_predicts_what_the_sampler_did_from_what_it_kept(
    models: dict[Kind, Path], samplers: dict[Kind, Any], kind: Kind, from_image: bool
) -> None:
    sampler = samplers[kind]
    condition = sampler.encode(TEXT, image(from_image))
    sampler_calls = record_calls(sampler.pipe.transformer, lambda: sampler.sample(condition, [1]))
    kept = condition.tensors()
    expected = {"prompt_embeds"} | ({"image_latents"} if from_image else set())
    assert set(kept) == expected | ({"image_embeds"} if kind == "i2v" else set())
    family = load_family(models[kind], torch.float32)
    family.check(
        PairShapes(
            latent=latent_shape(kind),
            prompt=tuple(kept["prompt_embeds"].shape),
            image=tuple(kept["image_latents"].shape) if from_image else None,
            image_embeds=tuple(kept["image_embeds"].shape) if kind == "i2v" else None,
        )
    )
    given = Condition(
        prompt_BLD=kept["prompt_embeds"][None],
        image_BX=kept["image_latents"][None] if from_image else None,
        image_embeds_BLD=kept["image_embeds"][None] if kind == "i2v" else None,
    )
    for inputs, output in sampler_calls[::2]:  # every other call is the unconditional one
        latents = inputs["hidden_states"][:, : latent_shape(kind)[0]]
        timestep_B = inputs["timestep"].reshape(1, -1)[:, -1]
        with torch.no_grad():
            found = family.predict(family.transformer, latents, timestep_B, given)
        assert (found - output).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", ["i2v", "ti2v"])
def test_bf16_leaves_the_codec_and_the_image_encoder_in_fp32(models: dict[Kind, Path], kind: Kind) -> None:
    sampler = load(models[kind], kind, precision="bf16")
    pipe = sampler.pipe
    assert (pipe.transformer.dtype, pipe.text_encoder.dtype) == (torch.bfloat16, torch.bfloat16)
    fp32 = [pipe.vae] + ([pipe.image_encoder] if kind == "i2v" else [])
    assert {parameter.dtype for part in fp32 for parameter in part.parameters()} == {torch.float32}
    (sample,) = sampler.sample(sampler.encode(TEXT, image(True)), [1])
    assert sample.latents_FChw.dtype == torch.float32
    assert torch.equal(sampler.decode(sample.latents_FChw), sample.frames_THW3)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("t2v", {"height": 40}, "`height` 40 does not fit model 't2v': use a multiple of 16"),
        ("ti2v", {"width": 48}, "`width` 48 does not fit model 'ti2v': use a multiple of 32"),
        (
            "i2v",
            {"num_frames": 10},
            "`num_frames` 10 does not fit model 'i2v': use 1 more than a multiple of 4",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_named(
    models: dict[Kind, Path], kind: Kind, changes: dict[str, int], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        load(models[kind], kind, **changes)
    # The folder says the same before anything of it is loaded; that of Wan 2.1 as published says less.
    about = json.loads((models[kind] / "vae" / "config.json").read_text())
    copy = Path(shutil.copytree(models[kind], tmp_path / kind))
    for name in ("scale_factor_spatial", "scale_factor_temporal") if kind != "ti2v" else ():
        about.pop(name)
    (copy / "vae" / "config.json").write_text(json.dumps(about))
    for folder in (models[kind], copy):
        with pytest.raises(UserError, match=message):
            require_fit(resolve_model(str(folder)), settings(kind, **changes))


def edited(folder: Path, change: Callable[[dict[str, Any]], Any], name: str = "model_index.json") -> Path:
    config = json.loads((folder / name).read_text())
    change(config)
    (folder / name).write_text(json.dumps(config))
    return folder


def test_models_of_two_stages_or_with_a_last_frame_are_refused(tmp_path: Path) -> None:
    folder = build(tmp_path / "two", "t2v")
    with pytest.raises(UserError, match="model 'two' has two transformers"):
        load(edited(folder, lambda index: index.update(boundary_ratio=0.9)), "t2v")
    entry = ["diffusers", "WanTransformer3DModel"]
    with pytest.raises(UserError, match="model 'two' has two transformers"):
        load(edited(folder, lambda index: index.update(boundary_ratio=None, transformer_2=entry)), "t2v")
    last = build(tmp_path / "last", "i2v", pos_embed_seq_len=10)
    with pytest.raises(UserError, match="model 'last' needs a last frame beside the first"):
        load(last, "i2v")


def test_a_prompt_without_a_first_frame_is_named(samplers: dict[Kind, Any]) -> None:
    with pytest.raises(UserError, match="has no first frame, which model 'i2v' needs"):
        samplers["i2v"].encode(TEXT, None)


def test_prompts_of_one_run_all_have_a_first_frame_or_none(models: dict[Kind, Path], tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts", 2)

    def planned(kind: Kind) -> int:
        wanted = SampleSettings(
            sampler=settings(kind), model=str(models[kind]), prompts=prompts, candidates=3, batch=3
        )
        return plan_sample(wanted, None, write=False).prompts

    assert planned("ti2v") == 2
    with prompts.open("a") as file:
        file.write('{"text": "only words"}\n')
    with pytest.raises(
        UserError, match=r"has a first frame and 'only words' has no .* every prompt an image"
    ):
        planned("ti2v")
    assert planned("t2v") == 3
    with pytest.raises(UserError, match="no first frame, which an image-to-video model needs"):
        planned("i2v")
    prompts.write_text('{"text": "only words"}\n')
    assert planned("ti2v") == 1
