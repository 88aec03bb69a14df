"""Which models and which pairs a Wan training refuses, and with what words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from storage.errors import UserError
from tests.tiny_wan import KINDS, TOKENS, Kind, build, latent_shape
from trainer.cost import CostSettings, step_cost
from trainer.families import load_family
from trainer.families.base import PairShapes
from trainer.families.wan import WanFamily

PROMPT = (TOKENS, 16)
EMBEDS = (5, 20)


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, WanFamily]:
    folder = tmp_path_factory.mktemp("wan")
    return {kind: WanFamily.load(build(folder / kind, kind), torch.float32) for kind in KINDS}


def fitting(kind: Kind, *, from_image: bool = False) -> dict[str, Any]:
    channels, frames, *cells = latent_shape(kind)
    shapes: dict[str, Any] = {"latent": latent_shape(kind), "prompt": PROMPT}
    if kind == "i2v":
        shapes |= {"image": (channels + 4, frames, *cells), "image_embeds": EMBEDS}
    elif from_image:
        shapes |= {"image": (channels, 1, *cells)}
    return shapes


@pytest.mark.parametrize(
    ("kind", "from_image"), [("t2v", False), ("i2v", True), ("ti2v", False), ("ti2v", True)]
)
def test_pairs_that_fit_pass_and_their_cost_can_be_foretold(
    families: dict[Kind, WanFamily], kind: Kind, from_image: bool
) -> None:
    shapes = PairShapes(**fitting(kind, from_image=from_image))
    families[kind].check(shapes)
    settings = CostSettings(
        objective="dpo",
        batch_size=1,
        rank=2,
        alpha=4,
        dtype=torch.bfloat16,
        gradient_checkpointing=True,
        together=True,
        cached_reference=False,
    )
    cost = step_cost(families[kind], shapes, settings)
    _, frames, height, width = latent_shape(kind)
    assert cost.tokens == frames * (height // 2) * (width // 2)
    assert cost.peak_bytes > cost.weights_bytes > 0


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (
            "t2v",
            {"latent": (3, 4, 4, 6)},
            r"latents of shape \[3, 4, 4, 6\], this model takes \[4, F, H, W\]",
        ),
        ("t2v", {"latent": (4, 3, 5, 6)}, r"F, H and W divisible by \(1, 2, 2\)"),
        ("t2v", {"prompt": (8, 17)}, r"prompt embeddings of shape \[8, 17\], this model takes \[L, 16\]"),
        ("t2v", {"image": (4, 1, 4, 6)}, r"image latents of shape \[4, 1, 4, 6\].*none \(a text-to-video"),
        ("t2v", {"image_embeds": EMBEDS}, r"image embeddings of shape \[5, 20\], this model takes none"),
        ("i2v", {"image": None}, r"image latents of shape None, this model takes \(8, 3, 4, 6\)"),
        ("i2v", {"image": (4, 3, 4, 6)}, r"image latents of shape \[4, 3, 4, 6\]"),
        ("i2v", {"image_embeds": None}, r"image embeddings of shape None, this model takes \[L, 20\]"),
        ("i2v", {"image_embeds": (5, 21)}, r"image embeddings of shape \[5, 21\]"),
        ("ti2v", {"image": (4, 3, 4, 4)}, r"image latents .*takes \(4, 1, 4, 4\) \(one clean frame\)"),
        ("ti2v", {"image_embeds": EMBEDS}, r"image embeddings of shape \[5, 20\], this model takes none"),
    ],
)
def test_pairs_of_another_shape_are_refused(
    families: dict[Kind, WanFamily], kind: Kind, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        families[kind].check(PairShapes(**(fitting(kind) | changes)))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"boundary_ratio": 0.9}, "has two transformers for high and low noise"),
        ("model_index.json", {"transformer_2": ["diffusers", "WanTransformer3DModel"]}, "two transformers"),
        ("scheduler", {"_class_name": "DDIMScheduler"}, "names the scheduler DDIMScheduler: Wan trains with"),
        ("scheduler", {"use_dynamic_shifting": True}, "asks for use_dynamic_shifting"),
        ("scheduler", {"flow_shift": 0}, "shift must be above 0, got 0.0"),
        ("scheduler", {"num_train_timesteps": 500}, "num_train_timesteps 500, Wan is trained on 1000"),
        (
            "scheduler",
            {"prediction_type": "epsilon"},
            "has prediction_type 'epsilon' and use_flow_sigmas True",
        ),
        ("scheduler", {"use_flow_sigmas": False}, "'flow_prediction' and use_flow_sigmas False"),
        ("transformer", {"pos_embed_seq_len": 10}, "starts from a first and a last frame"),
    ],
)
def test_unsupported_models_are_refused(
    tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    folder = build(tmp_path, "i2v")
    names = {"scheduler": "scheduler/scheduler_config.json", "transformer": "transformer/config.json"}
    path = folder / names.get(file, file)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        # The shapes alone: the weights are not those of the changed configuration.
        WanFamily.load(folder, torch.float32, weights=False)


def test_the_kind_comes_from_the_folder(families: dict[Kind, WanFamily], tmp_path: Path) -> None:
    assert {kind: family.expand_timesteps for kind, family in families.items()} == {
        "t2v": False,
        "i2v": False,
        "ti2v": True,
    }
    euler = load_family(build(tmp_path, "t2v", "euler"), torch.float32)
    timestep_index_B = torch.arange(0, 1000, 111)
    assert torch.equal(euler.timestep(timestep_index_B), families["t2v"].timestep(timestep_index_B))
