"""The sizes of a VGGT, which its weights say of themselves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class VGGTConfig:
    """Sizes of backbone, aggregator and heads; validated on construction (ValueError names the field).

    img_size is the side of the square frames that the backbone's positions were learned on, and the width
    that clips are resized to. depth counts pairs of a frame block and a global block. dpt_layers are the
    pairs whose tokens the dense heads read. track: whether the weights of the track head are there.
    """

    img_size: int = 518
    patch_size: int = 14
    embed_dim: int = 1024
    num_heads: int = 16
    depth: int = 24
    num_register_tokens: int = 4
    rope_base: float = 100.0
    backbone_depth: int = 24
    backbone_heads: int = 16
    camera_depth: int = 4
    camera_heads: int = 16
    camera_iterations: int = 4
    dpt_features: int = 256
    dpt_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    dpt_layers: tuple[int, int, int, int] = (4, 11, 17, 23)
    track: bool = True
    track_features: int = 128
    track_hidden: int = 384
    track_heads: int = 8
    track_depth: int = 6

    def __post_init__(self) -> None:
        for field in ("img_size", "patch_size", "embed_dim", "depth", "camera_depth", "camera_iterations"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be >= 1, got {getattr(self, field)}")
        if self.img_size % self.patch_size:
            raise ValueError(
                f"img_size must be a multiple of patch_size {self.patch_size}, got {self.img_size}"
            )
        self._check_heads()
        if any(channels % 4 for channels in (*self.dpt_channels, self.dpt_features // 2)):
            raise ValueError(
                "dpt_channels and half of dpt_features must be multiples of 4, the parts of a position, got "
                f"{self.dpt_channels} and {self.dpt_features}"
            )
        if len(self.dpt_layers) != 4 or not all(0 <= layer < self.depth for layer in self.dpt_layers):
            raise ValueError(f"dpt_layers must be four of the {self.depth} layers, got {self.dpt_layers}")

    def _check_heads(self) -> None:
        for field, width in (
            ("num_heads", self.embed_dim),
            ("backbone_heads", self.embed_dim),
            ("camera_heads", 2 * self.embed_dim),
        ):
            if getattr(self, field) < 1 or width % getattr(self, field):
                raise ValueError(f"{field} must divide its width {width}, got {getattr(self, field)}")
        if (self.embed_dim // self.num_heads) % 4:
            raise ValueError(
                "embed_dim / num_heads must be a multiple of 4 for rotary positions in two directions, got "
                f"{self.embed_dim} / {self.num_heads}"
            )
