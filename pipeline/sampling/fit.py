"""Whether settings fit a model, by what its folder says of itself: found before its weights are loaded."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.components import component_config
from pipeline.models import ModelRef, model_index
from pipeline.sampling.settings import SamplerSettings
from storage.errors import UserError


class Grid(NamedTuple):
    """Heights and widths are multiples of these; videos have 1 more than a multiple of so many frames."""

    height: int
    width: int
    frames: int


def require_fit(model: ModelRef, settings: SamplerSettings) -> None:
    """Raise UserError for settings that do not fit; what the folder does not say is found at loading."""
    grid = _grid(model)
    if grid is not None:
        require_grid(model.name, settings, grid)
    most = component_config(model.path, "scheduler", "scheduler_config.json").get("num_train_timesteps")
    if isinstance(most, int) and settings.steps > most:
        raise UserError(
            f"`steps` {settings.steps} does not fit model {model.name!r}, which was trained on {most} noise "
            "levels: use at most so many"
        )


def require_grid(name: str, settings: SamplerSettings, grid: Grid) -> None:
    """Raise UserError for a size or a length between the cells of a model."""
    for side in ("height", "width"):
        size, cell = getattr(settings, side), getattr(grid, side)
        if size % cell:
            raise UserError(f"`{side}` {size} does not fit model {name!r}: use a multiple of {cell}")
    if (settings.num_frames - 1) % grid.frames:
        raise UserError(
            f"`num_frames` {settings.num_frames} does not fit model {name!r}: use 1 more than a multiple of "
            f"{grid.frames}"
        )


def frame_step(vae: str, ratio: int) -> int:
    """Videos of this class of VAE have 1 more than a multiple of so many frames; `ratio` is its compression.

    That of CogVideoX decodes latent frames in twos, to eight frames each, or nine from a first group of
    three. So it makes 16 frames, not 13, of 4 latent ones: their number must be odd.
    """
    return 2 * ratio if vae == "AutoencoderKLCogVideoX" else ratio


def _grid(model: ModelRef) -> Grid | None:
    vae = component_config(model.path, "vae")
    patch = component_config(model.path, "transformer").get("patch_size")
    blocks = vae.get("block_out_channels")
    halvings = vae.get("temperal_downsample") or []  # spelt so in the configurations of Wan
    # As the pipelines read them.
    spatial = 2 ** (len(blocks) - 1) if blocks else vae.get("scale_factor_spatial", 2 ** len(halvings))
    ratio = vae.get("temporal_compression_ratio") or vae.get("scale_factor_temporal", 2 ** sum(halvings))
    if not patch or not (blocks or halvings):
        return None
    height, width = patch[-2:] if isinstance(patch, list) else (patch, patch)
    kind = str((model_index(model).get("vae") or [""])[-1])
    return Grid(height=spatial * height, width=spatial * width, frames=frame_step(kind, int(ratio)))
