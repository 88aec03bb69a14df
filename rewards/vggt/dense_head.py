"""The dense heads of VGGT: tokens of four layers to a map per frame (DPT, arXiv 2103.13413).

Shape legend: B clips, S frames, n frames of one chunk, P patches, E width of the tokens, C channels, H, W
pixels. Module names are those of the published weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.vggt.config import VGGTConfig

_CHUNK = 8  # frames decoded together: the maps at full size dominate memory
_POSITION_BASE = 100.0
_POSITION_WEIGHT = 0.1
_LAST = 32


class ResidualConv(nn.Module):
    """Two convolutions on a rectified input, added to the rectified input.

    The published model rectifies in place before it adds, so its residual path carries max(x, 0), not x.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as the input."""
        x = F.relu(x)
        output: Tensor = self.conv2(F.relu(self.conv1(x))) + x
        return output


class Fusion(nn.Module):
    """Adds a finer map to a coarser one and enlarges the result."""

    def __init__(self, channels: int, lateral: bool) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(channels, channels, 1)
        self.resConfUnit1 = ResidualConv(channels) if lateral else None
        self.resConfUnit2 = ResidualConv(channels)

    def forward(self, x: Tensor, finer: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Map of the given size."""
        if self.resConfUnit1 is not None and finer is not None:
            x = x + self.resConfUnit1(finer)
        output: Tensor = self.out_conv(_resize(self.resConfUnit2(x), size))
        return output


class Scratch(nn.Module):
    """The fusion pyramid; outputs is the number of channels of the maps, None for features only."""

    def __init__(self, channels: tuple[int, int, int, int], features: int, outputs: int | None) -> None:
        super().__init__()
        self.layer1_rn = nn.Conv2d(channels[0], features, 3, padding=1, bias=False)
        self.layer2_rn = nn.Conv2d(channels[1], features, 3, padding=1, bias=False)
        self.layer3_rn = nn.Conv2d(channels[2], features, 3, padding=1, bias=False)
        self.layer4_rn = nn.Conv2d(channels[3], features, 3, padding=1, bias=False)
        self.refinenet1 = Fusion(features, lateral=True)
        self.refinenet2 = Fusion(features, lateral=True)
        self.refinenet3 = Fusion(features, lateral=True)
        self.refinenet4 = Fusion(features, lateral=False)
        half = features if outputs is None else features // 2
        self.output_conv1 = nn.Conv2d(features, half, 3, padding=1)
        if outputs is not None:
            self.output_conv2 = nn.Sequential(
                nn.Conv2d(half, _LAST, 3, padding=1), nn.ReLU(), nn.Conv2d(_LAST, outputs, 1)
            )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """From the coarsest map up, each step enlarging to the size of the next finer one."""
        one, two = self.layer1_rn(maps[0]), self.layer2_rn(maps[1])
        three, four = self.layer3_rn(maps[2]), self.layer4_rn(maps[3])
        x = self.refinenet4(four, None, _size(three))
        x = self.refinenet3(x, three, _size(two))
        x = self.refinenet2(x, two, _size(one))
        height, width = _size(one)
        output: Tensor = self.output_conv1(self.refinenet1(x, one, (2 * height, 2 * width)))
        return output


class DenseHead(nn.Module):
    """Maps with `outputs` channels at the resolution of the frames."""

    def __init__(self, config: VGGTConfig, features: int, outputs: int | None) -> None:
        super().__init__()
        self.config = config
        dim, channels = 2 * config.embed_dim, config.dpt_channels
        self.norm = nn.LayerNorm(dim)
        self.projects = nn.ModuleList(nn.Conv2d(dim, width, 1) for width in channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(channels[0], channels[0], 4, stride=4),
                nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),
            ]
        )
        self.scratch = Scratch(channels, features, outputs)

    def forward(self, tokens: Mapping[int, Tensor], special: int, height: int, width: int) -> Tensor:
        """Maps B,S,C,H,W from the tokens B,S,N,E of the layers; `special` tokens stand before the patches."""
        layers = [tokens[layer][:, :, special:] for layer in self.config.dpt_layers]
        batch, frames = layers[0].shape[:2]
        flat = [layer.flatten(0, 1) for layer in layers]
        chunks = [
            self._decode([layer[start : start + _CHUNK] for layer in flat], height, width)
            for start in range(0, batch * frames, _CHUNK)
        ]
        maps = torch.cat(chunks)
        return maps.view(batch, frames, *maps.shape[1:])

    def _decode(self, layers_nPE: list[Tensor], height: int, width: int) -> Tensor:
        rows, columns = height // self.config.patch_size, width // self.config.patch_size
        maps = []
        for index, layer_nPE in enumerate(layers_nPE):
            grid = self.norm(layer_nPE).transpose(1, 2).unflatten(2, (rows, columns))
            grid = _add_positions(self.projects[index](grid), width / height)
            maps.append(self.resize_layers[index](grid))
        x = _add_positions(_resize(self.scratch(maps), (height, width)), width / height)
        output: Tensor = self.scratch.output_conv2(x)
        return output


def _size(x: Tensor) -> tuple[int, int]:
    return int(x.shape[-2]), int(x.shape[-1])


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def _add_positions(x_nCHW: Tensor, aspect: float) -> Tensor:
    """Add a tenth of a sine-cosine code of the position, which is in units of the frame's half diagonal."""
    height, width = _size(x_nCHW)
    diagonal = (aspect**2 + 1) ** 0.5
    x_W = _code(width, aspect / diagonal, x_nCHW)
    y_H = _code(height, 1 / diagonal, x_nCHW)
    code_CHW = torch.cat([x_W[:, None].expand(-1, height, -1), y_H[:, :, None].expand(-1, -1, width)])
    return x_nCHW + _POSITION_WEIGHT * code_CHW


def _code(count: int, span: float, like_nCHW: Tensor) -> Tensor:
    """Sines, then cosines, of `count` pixel centres over [-span, span], in half of the channels."""
    reach = span * (count - 1) / count
    place = torch.linspace(-reach, reach, count, dtype=torch.float32, device=like_nCHW.device).double()
    quarter = like_nCHW.shape[1] // 4
    steps = torch.arange(quarter, dtype=torch.float64, device=like_nCHW.device) / quarter
    angle = place / _POSITION_BASE ** steps[:, None]
    return torch.cat([angle.sin(), angle.cos()]).to(like_nCHW.dtype)
