"""The embedded image-to-video model: diffusers' CogVideoX classes, configured small, and the motion codec."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXImageToVideoPipeline, CogVideoXTransformer3DModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from pipeline.world.codec import MotionCodec

TEXT_LENGTH = 24
_TEXT_WIDTH = 64
_FRAMES = 9
SIZE = 64
_LATENT_SIZE = 16
_CHANNELS = 16


def _build_transformer() -> CogVideoXTransformer3DModel:
    """4.6 M parameters; 32 channels in (noisy latents, image latents), 16 out, rotary positions."""
    return CogVideoXTransformer3DModel(
        num_attention_heads=6,
        attention_head_dim=32,
        in_channels=2 * _CHANNELS,
        out_channels=_CHANNELS,
        time_embed_dim=128,
        text_embed_dim=_TEXT_WIDTH,
        num_layers=6,
        sample_width=_LATENT_SIZE,
        sample_height=_LATENT_SIZE,
        sample_frames=_FRAMES,
        temporal_compression_ratio=8,
        patch_size=2,
        max_text_seq_length=TEXT_LENGTH,
        use_rotary_positional_embeddings=True,
    )


def _build_scheduler() -> CogVideoXDDIMScheduler:
    """The schedule of CogVideoX-5B: scaled linear betas, zero terminal SNR, v-prediction, trailing steps."""
    return CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def build_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer; words it does not know become <unk>."""
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *sorted(set(words))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=TEXT_LENGTH,
    )


def _build_text_encoder(vocabulary_size: int, seed: int = 0) -> T5EncoderModel:
    """A frozen one-layer T5 encoder of random weights: enough, since words get distinct embeddings."""
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=vocabulary_size,
        d_model=_TEXT_WIDTH,
        d_kv=16,
        d_ff=128,
        num_layers=1,
        num_heads=4,
        pad_token_id=0,
    )
    return T5EncoderModel(config).eval().requires_grad_(False)


def build_pipeline(words: Sequence[str], seed: int = 0) -> CogVideoXImageToVideoPipeline:
    """An untrained pipeline of all parts."""
    tokenizer = build_tokenizer(words)
    text_encoder = _build_text_encoder(len(tokenizer), seed)
    torch.manual_seed(seed)
    return CogVideoXImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=MotionCodec(),
        transformer=_build_transformer(),
        scheduler=_build_scheduler(),
    )
