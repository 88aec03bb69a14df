"""Options of how candidates are sampled, against what diffusers' own pipelines make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from click.testing import CliRunner
from diffusers import CogVideoXImageToVideoPipeline
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from torch import Tensor

from jobs.main import cli
from pipeline.models import AdapterRef, ModelRef, resolve_model
from pipeline.sampling.sampler import prepare_pipeline
from pipeline.sampling.samplers import make_sampler
from pipeline.sampling.settings import Execution, SamplerSettings, SampleSettings
from storage.errors import UserError
from tests.pipeline.tiny import SAMPLER, build, vae

TEXT = "a quiet hall"
MODEL = ModelRef(name="world", revision="r1", path=Path("x"), family="f")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def image() -> Tensor:
    return torch.randint(0, 256, (40, 56, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def load(
    folder: Path, adapter: AdapterRef | None = None, execution: Execution | None = None, **changes: Any
) -> Any:
    settings = SamplerSettings(**{**SAMPLER, **changes})
    sampler = make_sampler(resolve_model(str(folder)), settings, adapter, "cpu", execution)
    sampler.setup()
    return sampler


def sample(sampler: Any) -> Any:
    return sampler.sample(sampler.encode(TEXT, image()), [5])[0]


def stock(folder: Path, *, prepare: Any = None, **changes: Any) -> tuple[Tensor, Tensor]:
    """Latents and frames of the stock pipeline from the same noise."""
    pipe = CogVideoXImageToVideoPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    if prepare is not None:
        prepare(pipe)
    called: dict[str, Any] = {
        "image": Image.fromarray(image().numpy()),
        "prompt": TEXT,
        "latents": torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(5)),
        "height": 32,
        "width": 32,
        "num_frames": 9,
        "num_inference_steps": 2,
        "guidance_scale": 1.0,
        "max_sequence_length": SAMPLER["max_sequence_length"],
    }
    called |= changes
    latents, frames = (
        pipe(**called, generator=torch.Generator().manual_seed(0), output_type=kind).frames[0]
        for kind in ("latent", "np")
    )
    return latents, torch.from_numpy(frames * 255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> AdapterRef:
    folder = tmp_path_factory.mktemp("adapter")
    pipe = CogVideoXImageToVideoPipeline.from_pretrained(tiny_model)
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipe.transformer.add_adapter(config)
    pipe.save_lora_weights(folder, transformer_lora_layers=get_peft_model_state_dict(pipe.transformer))
    return AdapterRef(path=folder, id="adapter")


def test_guidance_leads_away_from_the_negative_prompt(tiny_model: Path) -> None:
    away = sample(load(tiny_model, guidance=4.0, negative_prompt="a quiet room"))
    latents, frames = stock(tiny_model, guidance_scale=4.0, negative_prompt="a quiet room")
    assert torch.equal(away.latents_FChw, latents)
    assert torch.equal(away.frames_THW3, frames)
    assert not torch.allclose(sample(load(tiny_model, guidance=4.0)).latents_FChw, latents, atol=1e-3)


@pytest.mark.parametrize("weight", [0.5, 1.0, -1.0])
def test_the_weight_of_an_adapter_is_diffusers(tiny_model: Path, adapter: AdapterRef, weight: float) -> None:
    def prepare(pipe: Any) -> None:
        pipe.load_lora_weights(str(adapter.path), adapter_name="any")
        pipe.set_adapters(["any"], [weight])

    made = sample(load(tiny_model, adapter, adapter_weight=weight)).latents_FChw
    assert torch.equal(made, stock(tiny_model, prepare=prepare)[0])
    assert not torch.allclose(made, sample(load(tiny_model)).latents_FChw, atol=1e-3)


def test_an_adapter_of_weight_zero_is_the_base_model(tiny_model: Path, adapter: AdapterRef) -> None:
    nothing = sample(load(tiny_model, adapter, adapter_weight=0.0))
    assert torch.equal(nothing.latents_FChw, sample(load(tiny_model)).latents_FChw)


def test_tiles_are_the_vaes_own(tmp_path: Path) -> None:
    # Tiles of half the VAE's own size: two by two for this video.
    folder = build(tmp_path / "tiled", vae_model=vae(sample_height=64, sample_width=64))
    size = {"height": 48, "width": 48}
    tiled = load(folder, vae_tiling=True, **size)
    made = sample(tiled)
    noise = torch.randn(1, 3, 4, 6, 6, generator=torch.Generator().manual_seed(5))
    latents, frames = stock(folder, prepare=lambda pipe: pipe.vae.enable_tiling(), latents=noise, **size)
    assert torch.equal(made.latents_FChw, latents)
    assert torch.equal(made.frames_THW3, frames)
    assert torch.equal(tiled.decode(made.latents_FChw), frames)
    assert not torch.equal(load(folder, **size).decode(made.latents_FChw), frames)


def test_slices_change_nothing(tiny_model: Path) -> None:
    sliced = load(tiny_model, execution=Execution(vae_slicing=True))
    assert sliced.pipe.vae.use_slicing
    assert torch.equal(sample(sliced).frames_THW3, sample(load(tiny_model)).frames_THW3)


def offload_on_cpu(sampler: Any, adapter: AdapterRef | None = None) -> None:
    """On the CPU, where the hooks that bring weights and take them away are the same."""
    execution = Execution(offload="model")
    prepare_pipeline(sampler.pipe, sampler.model, sampler.settings, adapter, execution, "cpu")


def test_offloaded_weights_are_there_when_they_are_used(tiny_model: Path, adapter: AdapterRef) -> None:
    sampler, whole = load(tiny_model), load(tiny_model, adapter)
    offload_on_cpu(sampler, adapter)
    assert all(hasattr(getattr(sampler.pipe, name), "_hf_hook") for name in ("transformer", "vae"))
    for _ in range(2):
        made, expected = sample(sampler), sample(whole)
        assert torch.equal(made.latents_FChw, expected.latents_FChw)
        assert torch.equal(made.frames_THW3, expected.frames_THW3)


def test_the_worlds_codec_calls_the_hooks_that_bring_its_weights() -> None:
    size = {"height": 64, "width": 64, "max_sequence_length": 24}
    sampler, whole = load(Path("world"), **size), load(Path("world"), **size)
    offload_on_cpu(sampler)
    brought: list[Any] = []
    hook = sampler.pipe.vae._hf_hook
    original = hook.pre_forward

    def pre_forward(module: Any, *args: Any, **kwargs: Any) -> Any:
        brought.append(module)
        return original(module, *args, **kwargs)

    hook.pre_forward = pre_forward
    condition = sampler.encode(TEXT, image())
    assert len(brought) == 1
    latents = whole.sample(whole.encode(TEXT, image()), [5])[0].latents_FChw
    assert torch.equal(condition.image_latents_FChw, whole.encode(TEXT, image()).image_latents_FChw)
    assert torch.equal(sampler.decode(latents), whole.decode(latents))
    assert len(brought) == 2


@pytest.mark.parametrize(
    ("offload", "expected"),
    [
        ("none", []),
        ("model", ["enable_model_cpu_offload"]),
        ("sequential", ["enable_sequential_cpu_offload"]),
    ],
)
def test_the_adapter_is_in_place_before_weights_are_offloaded(
    offload: Any, expected: list[str], adapter: AdapterRef
) -> None:
    pipe = MagicMock()
    settings = SamplerSettings(**SAMPLER)
    prepare_pipeline(pipe, MODEL, settings, adapter, Execution(offload=offload), "cuda")
    names = [call[0] for call in pipe.method_calls]
    assert names == ["load_lora_weights", "set_adapters", *expected]
    for name in expected:
        getattr(pipe, name).assert_called_once_with(device="cuda")
    assert Execution(offload=offload).loading_device("cuda") == ("cuda" if offload == "none" else "cpu")


def test_a_compiled_transformer_samples_the_same(
    tiny_model: Path, adapter: AdapterRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the graph run as it was traced, since generating code takes a compiler and a minute."""
    real, called = torch.compile, []

    def traced(module: Any, *args: Any, **options: Any) -> Any:
        called.append(module)
        return real(module, *args, **{**options, "backend": "eager"})

    monkeypatch.setattr(torch, "compile", traced)
    compiled = sample(load(tiny_model, adapter, Execution(compile=True)))
    assert len(called) == 1
    assert torch.allclose(compiled.latents_FChw, sample(load(tiny_model, adapter)).latents_FChw, atol=1e-5)


def test_a_vae_without_tiles_is_named() -> None:
    with pytest.raises(UserError, match=r"'world' \(MotionCodec\) has no tiling: leave vae_tiling out"):
        load(Path("world"), height=64, width=64, max_sequence_length=24, vae_tiling=True)


def test_execution_is_validated(tiny_model: Path) -> None:
    wrong: Any = "disk"
    with pytest.raises(UserError, match="offload must be one of none, model, sequential, got 'disk'"):
        Execution(offload=wrong)
    with pytest.raises(UserError, match="`offload` model is for a GPU and this worker has none"):
        load(tiny_model, execution=Execution(offload="model"))
    weak = SamplerSettings(**{**SAMPLER, "adapter_weight": 0.5})
    given = SampleSettings(sampler=weak, adapter=Path("adapter"))
    assert given.with_adapter(None) == SampleSettings(sampler=SamplerSettings(**SAMPLER))
    with pytest.raises(UserError, match=r"adapter_weight 0\.5 has no adapter to weigh"):
        SampleSettings(sampler=weak)


def test_the_command_takes_the_options(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["sample", str(tmp_path / "run"), "--offload", "sequential"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: --offload sequential is for a GPU")
    assert not (tmp_path / "run").exists()
    shown = " ".join(CliRunner().invoke(cli, ["sample", "--help-all"]).output.split())
    assert "the first candidates of a worker take minutes" in shown
