"""Training of the embedded image-to-video model on a mixture of clean and faulty clips.

Half of the clips of every camera move carry the growing warp, so the trained model, like the large ones,
knows what a rigid scene looks like and does not always draw it. Nothing tells it which clips are faulty.
Shape legend: B clips, F latent frames, C channels, h w latent cells, L text tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXTransformer3DModel
from torch import Tensor

from pipeline.world.clips import vocabulary
from pipeline.world.generator import SIZE, TEXT_LENGTH, build_pipeline, build_tokenizer
from pipeline.world.training.common import Course, Report, WeightAverage, train_model
from pipeline.world.training.dataset import Examples, augment, prepare_examples

_MUON_RATE = 5e-4
_ADAM_RATE = 1e-3
_PROMPT_DROPOUT = 0.1
SAVE_EVERY = 200
_SHIPPED_DTYPE = torch.float16


class _TextTable:
    """Prompt embeddings [B, L, D] of the frozen text encoder, computed once per text."""

    def __init__(self, pipeline: CogVideoXImageToVideoPipeline) -> None:
        self.pipeline = pipeline
        self.known: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        """Embeddings of the texts, in their order."""
        for text in texts:
            if text not in self.known:
                embeds, _ = self.pipeline.encode_prompt(
                    text, max_sequence_length=TEXT_LENGTH, do_classifier_free_guidance=False
                )
                self.known[text] = embeds[0]
        return torch.stack([self.known[text] for text in texts])


def _make_batch(
    pipeline: CogVideoXImageToVideoPipeline,
    table: _TextTable,
    examples: Examples,
    size: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Clean latents, image latents (both [B, F, C, h, w]) and prompt embeddings [B, L, D] of examples."""
    chosen = torch.randint(len(examples.texts), (size,), generator=generator)
    first, motion, texts = augment(examples, chosen, generator)
    encoded = pipeline.vae.encode_image(first)
    latents = torch.stack([encoded, motion], dim=1)
    image_latents = torch.stack([encoded, torch.zeros_like(encoded)], dim=1)
    dropped = torch.rand(size, generator=generator) < _PROMPT_DROPOUT
    kept = ["" if drop else text for drop, text in zip(dropped.tolist(), texts, strict=True)]
    return latents, image_latents, table(kept)


def diffusion_loss(
    pipeline: CogVideoXImageToVideoPipeline,
    latents: Tensor,
    image_latents: Tensor,
    embeds: Tensor,
    rotary: tuple[Tensor, Tensor],
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error of the v-prediction; high noise, where motion is decided, is drawn more often.

    The draws come from the CPU generator, whatever device the latents are on.
    """
    uniform = torch.rand(len(latents), generator=generator)
    timesteps = (uniform.sqrt() * pipeline.scheduler.config.num_train_timesteps).long().to(latents.device)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    noisy = pipeline.scheduler.add_noise(latents, noise, timesteps)
    target = pipeline.scheduler.get_velocity(latents, noise, timesteps)
    prediction: Tensor = pipeline.transformer(
        hidden_states=torch.cat([noisy, image_latents], dim=2),
        encoder_hidden_states=embeds,
        timestep=timesteps,
        image_rotary_emb=rotary,
        return_dict=False,
    )[0]
    loss: Tensor = (prediction - target).square().mean()
    return loss


def train_generator(
    work: Path,
    out: Path,
    *,
    steps: int,
    clips: int,
    batch: int,
    seed: int,
    report: Report | None = None,
    prepared: Callable[[int, int], None] | None = None,
    device: str = "cpu",
    fault: str = "warp",
    initial: Path | None = None,
) -> Path:
    """Trains for `steps` steps, resuming from `work`; writes and returns the pipeline folder `out`.

    `fault` is the family that half of the clips carry; `initial` a generator's folder whose transformer the
    training begins from instead of random weights. `report` gets the steps done and the values of the curve,
    `prepared` the examples made and their number. Every random draw depends on the seed and the step alone.
    Raises FloatingPointError before a step whose loss is not finite.
    """
    codec, examples = prepare_examples(work / "examples", clips, prepared, fault)
    pipeline = build_pipeline(vocabulary(), seed)
    pipeline.register_modules(vae=codec)
    pipeline.scheduler.alphas_cumprod = pipeline.scheduler.alphas_cumprod.float()
    if initial is not None:
        pipeline.transformer.load_state_dict(_weights(initial))
    model = pipeline.transformer.to(device).train()
    rotary = pipeline._prepare_rotary_positional_embeddings(SIZE, SIZE, 2, torch.device(device))
    table = _TextTable(pipeline)

    def loss(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        made = _make_batch(pipeline, table, examples, batch, generator)
        latents, image_latents, embeds = (part.to(device) for part in made)
        value = diffusion_loss(pipeline, latents, image_latents, embeds, rotary, generator)
        return value, {"loss": value.item()}

    name = "generator" if fault == "warp" else f"generator-{fault}"
    course = Course(
        name=name,
        state=work / f"{name}.safetensors",
        curve=work / f"{name}.jsonl",
        steps=steps,
        seed=seed,
        save_every=SAVE_EVERY,
        muon_lr=_MUON_RATE,
        adam_lr=_ADAM_RATE,
        device=device,
    )
    average = train_model(model, course, loss, report, lambda average: export(pipeline, average, out))
    # Also when nothing was left to train: the export of the last step may have been interrupted.
    export(pipeline, average, out)
    return out


def _weights(folder: Path) -> dict[str, Tensor]:
    """The transformer of a generator's folder in single precision."""
    model = CogVideoXTransformer3DModel.from_pretrained(
        folder, subfolder="transformer", torch_dtype=torch.float32
    )
    state: dict[str, Tensor] = model.state_dict()
    return state


def export(pipeline: CogVideoXImageToVideoPipeline, average: WeightAverage, out: Path) -> None:
    """Writes the pipeline folder with the averaged weights in half precision (the codec stays in full)."""
    transformer = CogVideoXTransformer3DModel.from_config(pipeline.transformer.config)
    transformer.load_state_dict(average.tensors)
    # A fresh one: a tokenizer that has been used writes down how it last padded.
    build_tokenizer(vocabulary()).save_pretrained(out / "tokenizer")
    pipeline.text_encoder.save_pretrained(out / "text_encoder")
    pipeline.scheduler.save_pretrained(out / "scheduler")
    pipeline.vae.save_pretrained(out / "vae")
    # The method of torch itself: the one of diffusers warns about modules that this class does not have.
    torch.nn.Module.to(transformer, _SHIPPED_DTYPE).save_pretrained(out / "transformer")
    pipeline.save_config(out)
