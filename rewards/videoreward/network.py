"""The network: transformers' Qwen2-VL, LoRA on its language model, and a linear head at the reward tokens.

Shape legend: B clips, L tokens (padded on the right), N patches of all clips, P values of a patch, R rewards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rewards.videoreward.inputs import Inputs
from rewards.videoreward.settings import VideoRewardConfig


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
