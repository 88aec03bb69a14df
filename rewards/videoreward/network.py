"""VideoReward: what it is shown (which frames, what size, which words), and its network with reward head.

The inputs follow Qwen2-VL's rules for video (arXiv 2409.12191) as VideoReward uses them; the network is
transformers' Qwen2-VL, LoRA on its language model, and a linear head at the reward tokens. Shape legend: T
frames, H, W pixels, N patches (of all clips), P values of a patch (3 colours x 2 frames x 14 x 14 pixels), B
clips, L tokens (padded on the right), R rewards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import AddedToken, Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.errors import RewardError
from rewards.videoreward.settings import REWARD_TOKENS, VideoRewardConfig

_VIDEO_TOKEN = "<|video_pad|>"
_CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    f"<|vision_start|>{_VIDEO_TOKEN}<|vision_end|>{{}}<|im_end|>\n<|im_start|>assistant\n"
)
_PATCH, _MERGE, _FRAMES = 14, 2, 2  # pixels of a patch, patches of a token per side, frames of a token
_FACTOR = _PATCH * _MERGE
_MIN_PIXELS = 128 * _FACTOR**2
_MIN_FRAMES, _MAX_FRAMES = 4, 768
_MAX_RATIO = 200
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A clip as the network takes it: token ids, patches, and the grid of patches (time, height, width)."""

    ids_L: Tensor
    patches_NP: Tensor
    grid: tuple[int, int, int]


class Words:
    """The tokenizer with the reward tokens, and the prompt's template.

    Raises RewardError when the file is not a tokenizer of Qwen2-VL.
    """

    def __init__(self, path: Path, prompt: str) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more precise
            raise RewardError(f"{path} is not a tokenizer ({error}); fetch it again") from error
        self._tokenizer.add_special_tokens(
            [AddedToken(token, special=True, normalized=False) for token in REWARD_TOKENS]
        )
        self._reserved = [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]
        if _VIDEO_TOKEN not in self._reserved:
            raise RewardError(f"{path} has no token {_VIDEO_TOKEN}; give the tokenizer.json of Qwen2-VL")
        self._prompt = prompt

    @property
    def size(self) -> int:
        """Tokens, those of the rewards included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def video_id(self) -> int:
        """The token that stands for a piece of the video."""
        return self._id(_VIDEO_TOKEN)

    @property
    def reward_ids(self) -> tuple[int, ...]:
        """The tokens at which the rewards are read."""
        return tuple(self._id(token) for token in REWARD_TOKENS)

    def _id(self, token: str) -> int:
        return cast("int", self._tokenizer.token_to_id(token))

    def reserved_in(self, text: str) -> str | None:
        """A token of the model that the text of a prompt spells out, if there is one."""
        return next((token for token in self._reserved if token in text), None)

    def encode(self, text: str, video_tokens: int) -> Tensor:
        """Token ids of the whole conversation, the video's place taken by that many tokens."""
        words = _CHAT.format(self._prompt.format(text_prompt=text))
        ids: list[int] = self._tokenizer.encode(words, add_special_tokens=False).ids
        place = ids.index(self.video_id)
        return torch.tensor(ids[:place] + [self.video_id] * video_tokens + ids[place + 1 :])


def refusal(frames_THW3: Tensor, text: str, words: Words) -> str | None:
    """Why a clip cannot be measured, or None."""
    frames, height, width = frames_THW3.shape[:3]
    if frames < _FRAMES:
        return f"it has {frames} frame, and VideoReward looks at two or more"
    if max(height, width) > _MAX_RATIO * min(height, width):
        return f"{width}x{height} pixels are longer than {_MAX_RATIO}:1"
    token = words.reserved_in(text)
    return None if token is None else f"its prompt spells out {token}, a token of the model"


def prepare(frames_THW3: Tensor, fps: float, text: str, config: VideoRewardConfig, words: Words) -> Inputs:
    """The network's input for a clip that `refusal` lets pass: frames uint8, or float in [0, 1].

    Float frames are rounded to 8 bits, as a video file holds them.
    """
    chosen = choose_frames(frames_THW3.shape[0], fps, config.fps)
    frames_TCHW = _eight_bits(frames_THW3[chosen]).permute(0, 3, 1, 2)
    size = fit_size(frames_TCHW.shape[2], frames_TCHW.shape[3], config.max_frame_pixels)
    patches_NP, grid = to_patches(resize(frames_TCHW, size))
    return Inputs(ids_L=words.encode(text, math.prod(grid) // _MERGE**2), patches_NP=patches_NP, grid=grid)


def choose_frames(frames: int, fps: float, rate: float) -> list[int]:
    """Indices of the frames looked at: an even number, about `rate` a second, at least 4, both ends included.

    A clip of fewer than four frames gives two. Halves round to even.
    """
    most = min(_MAX_FRAMES, frames) // _FRAMES * _FRAMES
    wanted = min(max(frames / fps * rate, _MIN_FRAMES), most)
    count = round(wanted / _FRAMES) * _FRAMES
    return [int(index) for index in torch.linspace(0, frames - 1, count).round().tolist()]


def fit_size(height: int, width: int, max_pixels: int) -> tuple[int, int]:
    """Height and width in whole tokens (28 pixels), near the given ones, of at most max_pixels in all.

    Small frames grow to at least 128 tokens.
    """
    sides = [max(_FACTOR, round(side / _FACTOR) * _FACTOR) for side in (height, width)]
    if math.prod(sides) > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        sides = [max(_FACTOR, math.floor(side / shrink / _FACTOR) * _FACTOR) for side in (height, width)]
    elif math.prod(sides) < _MIN_PIXELS:
        grow = math.sqrt(_MIN_PIXELS / (height * width))
        sides = [math.ceil(side * grow / _FACTOR) * _FACTOR for side in (height, width)]
    return sides[0], sides[1]


def resize(frames_TCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Float frames in 0..255 of another size: bicubic, antialiased, rounded to whole values."""
    resized = F.interpolate(frames_TCHW.float(), size=size, mode="bicubic", antialias=True)
    return resized.clamp(0, 255).round()


def to_patches(frames_TCHW: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """Normalised patches in the order of Qwen2-VL's vision tower, and their grid (time, height, width).

    The four patches of a token follow each other; a patch holds colours, then frames, then rows.
    """
    mean_C11, std_C11 = (frames_TCHW.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
    shown = (frames_TCHW / 255 - mean_C11) / std_C11
    frames, colours, height, width = shown.shape
    grid = frames // _FRAMES, height // _PATCH, width // _PATCH
    rows, columns = grid[1] // _MERGE, grid[2] // _MERGE
    split = shown.view(grid[0], _FRAMES, colours, rows, _MERGE, _PATCH, columns, _MERGE, _PATCH)
    return split.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(math.prod(grid), -1), grid


def _eight_bits(frames_THW3: Tensor) -> Tensor:
    if frames_THW3.dtype == torch.uint8:
        return frames_THW3
    return (frames_THW3 * 255).round().clamp(0, 255).byte()


class VideoRewardNetwork(nn.Module):
    """Raw rewards of clips: the head's output at each reward token.

    The published model was trained with positions unlike those of plain Qwen2-VL: tokens are counted one by
    one in all three axes, video tokens too, and rotary frequencies are rounded to bfloat16. Both are kept
    here, in whatever type the rest is computed.
    """

    def __init__(self, qwen: Any, output_dim: int, reward_ids: Sequence[int]) -> None:
        from transformers import Qwen2VLModel

        super().__init__()
        self.model = Qwen2VLModel(qwen)
        self.rm_head = nn.Linear(qwen.text_config.hidden_size, output_dim, bias=False)
        self.reward_ids = tuple(reward_ids)
        text, vision = self.model.language_model.rotary_emb, self.model.visual.rotary_pos_emb
        for rotary in (text, vision):
            rotary.inv_freq.copy_(rotary.inv_freq.bfloat16())
        vision.register_forward_hook(_angles_of_bfloat16)

    def forward(self, ids_BL: Tensor, patches_NP: Tensor, grids_B3: Tensor) -> Tensor:
        """Raw rewards [B, R]; every reward token must be there once in every row.

        Attention looks back only, so that padding on the right needs no mask. The head works in float32.
        """
        clips, length = ids_BL.shape
        hidden_BLD = self.model(
            input_ids=ids_BL,
            position_ids=torch.arange(length, device=ids_BL.device).expand(3, clips, length),
            pixel_values_videos=patches_NP,
            video_grid_thw=grids_B3,
            use_cache=False,
        ).last_hidden_state
        scores = []
        for position, token in enumerate(self.reward_ids):
            row, column = (ids_BL == token).nonzero(as_tuple=True)
            if row.tolist() != list(range(clips)):
                raise ValueError(f"the reward token {token} must be in every row once")
            weight_D = self.rm_head.weight[position % self.rm_head.out_features].float()
            scores.append(hidden_BLD[row, column].float() @ weight_D)
        return torch.stack(scores, dim=1)


def build_network(
    qwen: Mapping[str, Any], config: VideoRewardConfig, tokens: int, reward_ids: Sequence[int]
) -> VideoRewardNetwork:
    """The network without memory for its weights (meta tensors). qwen is Qwen2-VL's config.json.

    tokens counts the rows of the embedding, which has those of the reward tokens beside Qwen2-VL's. Raises
    ValueError, KeyError or TypeError for a config that is not one of Qwen2-VL.
    """
    from accelerate import init_empty_weights
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import Qwen2VLConfig

    settings = Qwen2VLConfig(**qwen)
    settings.text_config.vocab_size = tokens
    with init_empty_weights(include_buffers=False):
        network = VideoRewardNetwork(settings, config.output_dim, reward_ids)
        language = network.model.language_model
        lora = LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            target_modules=[name for name, part in language.named_modules() if isinstance(part, nn.Linear)],
        )
        inject_adapter_in_model(lora, language)
    return network.requires_grad_(False).eval()


def collate(clips: Sequence[Inputs]) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids padded on the right (with 0, which no reward is read at), patches of all clips, grids."""
    ids_BL = nn.utils.rnn.pad_sequence([clip.ids_L for clip in clips], batch_first=True)
    return ids_BL, torch.cat([clip.patches_NP for clip in clips]), torch.tensor([clip.grid for clip in clips])


def _angles_of_bfloat16(rotary: Any, given: tuple[Any, ...], output: Any) -> Any:
    """The vision tower's rotary embedding with angles, cosines and sines of bfloat16.

    transformers 4 returns a table of angles, transformers 5 takes positions and returns cosines and sines.
    """
    if isinstance(output, Tensor):
        return output.bfloat16()
    angles = given[1][..., None].bfloat16() * rotary.inv_freq.bfloat16()
    return tuple(rotary.recomposition_frequencies(part) for part in (angles.cos(), angles.sin()))
