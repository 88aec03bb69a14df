"""VGGT against facts of the published model.

vggt_golden.json holds outputs of the published code (facebookresearch/vggt), run once in fp32 on a CPU with
the sizes of SMALL, the weights of vggt_seed.py and the images below, every sixth row and seventh column.
There, and with the same seed in the 1B configuration, this implementation agreed with it bit for bit.
vggt_1b_names.txt lists the names and shapes of its state dict, with the index of a block as *.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from rewards.geometry.vggt.config import VGGTConfig
from rewards.geometry.vggt.model import VGGT
from tests.rewards.vggt_seed import SMALL, seed_weights, seeded_images

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def small() -> VGGT:
    model = VGGT(SMALL).eval()
    seed_weights(model)
    return model


def _family(name: str, tensor: torch.Tensor) -> str:
    return re.sub(r"(blocks|trunk)[.][0-9]+", r"\1.*", name) + " " + "x".join(map(str, tensor.shape))


def test_the_default_has_the_names_and_shapes_of_the_published_weights() -> None:
    with torch.device("meta"):
        state = VGGT().state_dict()
    assert len(state) == 1797
    assert sum(tensor.numel() for tensor in state.values()) == 1_256_537_516
    lines = Counter(_family(name, tensor) for name, tensor in state.items())
    expected = {
        line.split(" ", 1)[1]: int(line.split(" ", 1)[0])
        for line in (HERE / "vggt_1b_names.txt").read_text().splitlines()
    }
    assert lines == expected


@torch.inference_mode()
def test_outputs_agree_with_the_published_code(small: VGGT) -> None:
    golden = json.loads((HERE / "vggt_golden.json").read_text())
    output = small(seeded_images(2, 3, 28, 42))
    assert set(output) == set(golden)
    shapes = {"pose_enc": (9,), "depth": (28, 42, 1), "world_points": (28, 42, 3)}
    for name, values in golden.items():
        got = output[name]
        assert tuple(got.shape) == (2, 3, *shapes.get(name, (28, 42)))
        chosen = got if name == "pose_enc" else got[:, :, ::6, ::7]
        assert torch.allclose(chosen.flatten(), torch.tensor(values), atol=1e-4, rtol=0), name


@torch.inference_mode()
def test_heads_and_clips_do_not_depend_on_each_other(small: VGGT) -> None:
    images = seeded_images(2, 9, 28, 42)  # more frames than the dense heads decode at once
    everything = small(images)
    for head, names in (("camera", {"pose_enc"}), ("depth", {"depth", "depth_conf"})):
        alone = small(images[1:], heads=(head,))
        assert set(alone) == names
        for name in names:
            assert torch.allclose(alone[name][0], everything[name][1], atol=1e-5)


@torch.inference_mode()
def test_the_first_frame_is_special_and_the_others_are_a_set(small: VGGT) -> None:
    images = seeded_images(1, 4, 28, 28)
    output = small(images)
    swapped = small(images[:, [0, 3, 2, 1]])
    assert torch.allclose(swapped["depth"], output["depth"][:, [0, 3, 2, 1]], atol=1e-4)
    turned = small(images[:, [1, 0, 2, 3]])
    assert not torch.allclose(turned["depth"], output["depth"][:, [1, 0, 2, 3]], atol=1e-3)


def test_every_weight_but_the_unused_learns() -> None:
    model = VGGT(SMALL)
    seed_weights(model)
    sum(value.square().mean() for value in model(seeded_images(1, 2, 28, 28)).values()).backward()
    without = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert without == {"aggregator.patch_embed.mask_token"}


@pytest.mark.parametrize(
    ("shape", "heads", "message"),
    [
        ((1, 3, 28, 28), ("depth",), "images must have shape"),
        ((1, 2, 3, 28, 30), ("depth",), "multiples of 14, got 28x30"),
        ((1, 2, 3, 28, 28), ("track",), "heads must be some of camera, depth, point"),
    ],
)
def test_forward_refuses(small: VGGT, shape: tuple[int, ...], heads: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(torch.zeros(shape), heads=heads)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img_size": 520}, "img_size must be a multiple of patch_size 14, got 520"),
        ({"depth": 0}, "depth must be >= 1"),
        ({"num_heads": 5}, "num_heads must divide its width 1024, got 5"),
        ({"embed_dim": 32}, "must be a multiple of 4 for rotary"),
        ({"dpt_channels": (6, 8, 8, 8)}, "dpt_channels and half of dpt_features"),
        ({"depth": 12}, "dpt_layers must be four of the 12 layers"),
    ],
)
def test_config_refuses(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VGGTConfig(**change)
