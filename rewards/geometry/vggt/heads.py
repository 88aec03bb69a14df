"""The heads of VGGT: camera tokens to poses by iterative refinement, and dense maps (DPT, arXiv 2103.13413).

Shape legend: T cameras.

Shape legend: I iterations, B clips, S frames, E width of the tokens (2D). A pose is nine numbers:
translation (3), rotation as a quaternion x, y, z, w (4), vertical and horizontal field of view in radians
(2).

Shape legend: B clips, S frames, n frames of one chunk, P patches, E width of the tokens, C channels, H, W
pixels. Module names are those of the published weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.geometry.vggt.config import VGGTConfig
from rewards.geometry.vggt.layers import Block, Mlp


def decode_cameras(pose_T9: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """w2c_T34 (OpenCV) and intrinsics_T33 (pixels of a height x width frame) from VGGT's pose_enc.

    A pose is translation, quaternion x y z w (of any length) and the vertical and horizontal field of view in
    radians. The principal point is (width / 2, height / 2) with pixel centres at integers, as the model was
    trained. A zero quaternion or field of view gives values that are not finite.
    """
    translation_T3, quaternion_T4, fov_T2 = pose_T9[:, :3], pose_T9[:, 3:7], pose_T9[:, 7:]
    vector_T3, real_T11 = quaternion_T4[:, :3], quaternion_T4[:, 3, None, None]
    # R = I + 2 (w [v]x + [v]x^2) / |q|^2
    cross_T33 = _cross(vector_T3)
    scale_T11 = 2 / quaternion_T4.square().sum(dim=1)[:, None, None]
    turn_T33 = scale_T11 * (real_T11 * cross_T33 + cross_T33 @ cross_T33)
    rotation_T33 = torch.eye(3, dtype=pose_T9.dtype, device=pose_T9.device) + turn_T33
    half_T2 = pose_T9.new_tensor([height / 2, width / 2])
    focal_T2 = half_T2 / torch.tan(fov_T2 / 2)
    intrinsics_T33 = torch.zeros_like(rotation_T33)
    intrinsics_T33[:, 0, 0], intrinsics_T33[:, 1, 1] = focal_T2[:, 1], focal_T2[:, 0]
    intrinsics_T33[:, 0, 2], intrinsics_T33[:, 1, 2] = width / 2, height / 2
    intrinsics_T33[:, 2, 2] = 1
    return torch.cat([rotation_T33, translation_T3[:, :, None]], dim=2), intrinsics_T33


def _cross(vector_T3: Tensor) -> Tensor:
    """The matrix that takes a cross product, T,3,3."""
    x, y, z = vector_T3.unbind(dim=1)
    zero = torch.zeros_like(x)
    rows = [torch.stack(row, dim=1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    return torch.stack(rows, dim=1)


_POSE = 9
_FOV = 7  # where the fields of view begin


class CameraHead(nn.Module):
    """A small transformer over the frames' camera tokens, modulated by the pose found so far."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        dim = 2 * config.embed_dim
        self.iterations = config.camera_iterations
        self.trunk = nn.Sequential(*(Block(dim, config.camera_heads) for _ in range(config.camera_depth)))
        self.token_norm = nn.LayerNorm(dim)
        self.trunk_norm = nn.LayerNorm(dim)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, _POSE))
        self.embed_pose = nn.Linear(_POSE, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.adaln_norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.pose_branch = Mlp(dim, dim // 2, _POSE)

    def forward(self, camera_BSE: Tensor) -> Tensor:
        """Poses I,B,S,9 after each of the I iterations, from the camera tokens of the last layer."""
        tokens_BSE = self.token_norm(camera_BSE)
        normed_BSE = self.adaln_norm(tokens_BSE)
        known_BS9 = self.empty_pose_tokens.expand(*tokens_BSE.shape[:2], -1)
        pose_BS9 = torch.zeros_like(known_BS9)
        steps = []
        for _ in range(self.iterations):
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(known_BS9)).chunk(3, dim=-1)
            x_BSE = self.trunk(tokens_BSE + gate * (normed_BSE * (1 + scale) + shift))
            # Each step learns on its own: no gradient runs back through the pose found before.
            pose_BS9 = pose_BS9.detach() + self.pose_branch(self.trunk_norm(x_BSE))
            known_BS9 = pose_BS9.detach()
            steps.append(torch.cat([pose_BS9[..., :_FOV], F.relu(pose_BS9[..., _FOV:])], dim=-1))
        return torch.stack(steps)


_CHUNK = 8  # frames decoded together: the maps at full size dominate memory
_POSITION_BASE = 100.0
_POSITION_WEIGHT = 0.1
_LAST = 32


class _ResidualConv(nn.Module):
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


class _Fusion(nn.Module):
    """Adds a finer map to a coarser one and enlarges the result."""

    def __init__(self, channels: int, lateral: bool) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(channels, channels, 1)
        self.resConfUnit1 = _ResidualConv(channels) if lateral else None
        self.resConfUnit2 = _ResidualConv(channels)

    def forward(self, x: Tensor, finer: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Map of the given size."""
        if self.resConfUnit1 is not None and finer is not None:
            x = x + self.resConfUnit1(finer)
        output: Tensor = self.out_conv(_resize(self.resConfUnit2(x), size))
        return output


class _Scratch(nn.Module):
    """The fusion pyramid; outputs is the number of channels of the maps, None for features only."""

    def __init__(self, channels: tuple[int, int, int, int], features: int, outputs: int | None) -> None:
        super().__init__()
        self.layer1_rn = nn.Conv2d(channels[0], features, 3, padding=1, bias=False)
        self.layer2_rn = nn.Conv2d(channels[1], features, 3, padding=1, bias=False)
        self.layer3_rn = nn.Conv2d(channels[2], features, 3, padding=1, bias=False)
        self.layer4_rn = nn.Conv2d(channels[3], features, 3, padding=1, bias=False)
        self.refinenet1 = _Fusion(features, lateral=True)
        self.refinenet2 = _Fusion(features, lateral=True)
        self.refinenet3 = _Fusion(features, lateral=True)
        self.refinenet4 = _Fusion(features, lateral=False)
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
        self.scratch = _Scratch(channels, features, outputs)

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
