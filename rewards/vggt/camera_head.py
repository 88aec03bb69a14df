"""The camera head of VGGT: camera tokens to poses, by iterative refinement.

Shape legend: I iterations, B clips, S frames, E width of the tokens (2D). A pose is nine numbers:
translation (3), rotation as a quaternion x, y, z, w (4), vertical and horizontal field of view in radians
(2).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewards.vggt.config import VGGTConfig
from rewards.vggt.layers import Block, Mlp

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
