"""The model card of an adapter: the Hub's own parser reads it, and it says what is so."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from storage.hub.provenance import GeometrySource, Provenance, Videos
from trainer.config import TrainConfig
from trainer.saving.card import CardFacts, base_terms, write_card
from trainer.train import train

VGGT = GeometrySource(model="facebook/VGGT-1B", revision="860abec", license="CC BY-NC 4.0")
WORLD = GeometrySource(model="world", revision="7ff22d539205", license="Apache-2.0")
PROVENANCE = Provenance(
    pairs=4,
    prompts=3,
    scenes=2,
    splits={"train": 4, "val": 1},
    gap_min=0.03125,
    gap_median=0.0625,
    gap_max=0.5,
    rewards=(("reprojection", "1-234f4144"),),
    scores_known=True,
    geometry=(VGGT,),
    videos=Videos(pairs={("sampled", "sampled"): 4}, models=("THUDM/CogVideoX-5b-I2V",)),
)


@pytest.fixture
def facts(make_config: Callable[..., TrainConfig], tmp_path: Path) -> CardFacts:
    base = tmp_path / "base"
    base.mkdir()
    config = make_config(model="THUDM/CogVideoX-5b-I2V", revision="a6f0f48", model_dir=base)
    return CardFacts(
        config=config,
        targets=("to_q", "to_k"),
        image_to_video=True,
        steps=6,
        processes=2,
        pairs=4,
        metrics={"loss": 0.512345678, "val/accuracy": 0.75},
        provenance=PROVENANCE,
    )


def card(facts: CardFacts, folder: Path) -> ModelCard:
    return ModelCard.load(write_card(folder, facts))


def base_card(facts: CardFacts, front: str) -> None:
    (facts.config.model_dir / "README.md").write_text(f"---\n{front}\n---\n# Base\n")


def test_the_hub_parses_it(facts: CardFacts, tmp_path: Path) -> None:
    loaded = card(facts, tmp_path)
    data = loaded.data.to_dict()
    assert data["base_model"] == "THUDM/CogVideoX-5b-I2V"
    assert data["base_model_relation"] == "adapter"
    assert data["library_name"] == "diffusers"
    assert data["pipeline_tag"] == "image-to-video"
    assert {"lora", "diffusers", "dpo"} <= set(data["tags"])
    # ModelCard.load leaves out of its data what it cannot parse; the front matter must survive a round trip.
    assert ModelCard(str(loaded)).data.to_dict() == data
    assert loaded.text.lstrip().startswith("# LoRA adapter for THUDM/CogVideoX-5b-I2V")


def test_it_says_what_the_data_and_the_labels_are(facts: CardFacts, tmp_path: Path) -> None:
    text = " ".join(card(facts, tmp_path).text.split())
    assert "4 pairs of 3 prompts in 2 scenes, split `train` (the directory holds 4 train, 1 val)" in text
    assert "`reprojection` version `1-234f4144`" in text
    assert "least 0.03125, median 0.0625, largest 0.5" in text
    assert "| facebook/VGGT-1B | 860abec | CC BY-NC 4.0 |" in text
    assert "labels inherit the licence of the geometry model" in text
    assert "| beta | 500.0 |" in text
    assert "| loss | 0.512346 |" in text
    assert "| val/accuracy | 0.75 |" in text
    assert 'from_pretrained("THUDM/CogVideoX-5b-I2V", revision="a6f0f48", torch_dtype=torch.float32' in text
    assert str(facts.config.out_dir) not in text
    assert str(facts.config.model_dir) not in text


@pytest.mark.parametrize(
    ("front", "geometry", "expected"),
    [
        ("license: apache-2.0", (WORLD,), {"license": "apache-2.0"}),
        (
            "license: other\nlicense_name: cogvideox\nlicense_link: https://example.org/LICENSE",
            (),
            {"license": "other", "license_name": "cogvideox", "license_link": "https://example.org/LICENSE"},
        ),
        (
            "license: apache-2.0",
            (WORLD, VGGT),
            {"license": "other", "license_name": "base-and-geometry-model"},
        ),
        (
            "license: apache-2.0",
            (replace(WORLD, license=None),),
            {"license": "other", "license_name": "base-and-geometry-model"},
        ),
        ("tags: [x]", (WORLD,), {"license": "other", "license_name": "that-of-the-base-model"}),
        ("license: [broken", (WORLD,), {"license": "other", "license_name": "that-of-the-base-model"}),
    ],
)
def test_its_licence_is_the_bases_unless_the_labels_ask_for_more(
    front: str,
    geometry: tuple[GeometrySource, ...],
    expected: dict[str, str],
    facts: CardFacts,
    tmp_path: Path,
) -> None:
    base_card(facts, front)
    told = replace(facts, provenance=replace(PROVENANCE, geometry=geometry))
    data = card(told, tmp_path).data.to_dict()
    assert {name: value for name, value in data.items() if name.startswith("license")} == expected


def test_a_base_without_a_card_has_no_known_terms(tmp_path: Path) -> None:
    assert base_terms(tmp_path) == {}


@pytest.mark.parametrize(
    ("provenance", "said"),
    [
        (None, "4 pairs; nothing more was recorded of them"),
        (None, "the geometry model is not named here"),
        (replace(PROVENANCE, scores_known=False, geometry=()), "the geometry model is not named here"),
        (replace(PROVENANCE, geometry=()), "The reward uses no geometry model"),
    ],
)
def test_what_is_not_known_is_said(
    provenance: Provenance | None, said: str, facts: CardFacts, tmp_path: Path
) -> None:
    assert said in " ".join(card(replace(facts, provenance=provenance), tmp_path).text.split())


def test_a_local_base_is_no_model_of_the_hub(facts: CardFacts, tmp_path: Path) -> None:
    local = replace(facts, config=replace(facts.config, model="world: a|b", revision="r1"))
    loaded = card(replace(local, image_to_video=False), tmp_path)
    assert "base_model" not in loaded.data.to_dict()
    assert loaded.data.to_dict()["pipeline_tag"] == "text-to-video"
    assert 'from_pretrained("FOLDER_OF_THE_BASE"' in loaded.text


def test_a_training_writes_it_beside_the_adapter(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    config = make_config(objective="sft")
    result = train(config, source=make_pairs(3), provenance=PROVENANCE)
    path = result.adapter_dir / "README.md"
    loaded, before = ModelCard.load(path), path.read_bytes()
    assert "sft" in loaded.data.to_dict()["tags"]
    assert "supervised training on the winners alone" in loaded.text
    assert re.search(r"\| winner_error \| [\d.]+ \|", loaded.text)
    train(config, source=make_pairs(3), provenance=PROVENANCE)
    assert path.read_bytes() == before


def test_it_says_whose_videos_were_paired(facts: CardFacts, tmp_path: Path) -> None:
    assert "both sampled by `THUDM/CogVideoX-5b-I2V`" in card(facts, tmp_path).text
    videos = Videos(pairs={("imported", "imported"): 4}, encoders=("THUDM/CogVideoX-5b-I2V",))
    text = card(replace(facts, provenance=replace(PROVENANCE, videos=videos, human=3)), tmp_path).text
    assert "two videos of one prompt, both imported from elsewhere" in text
    assert "A person looked at 3 pairs" in text
    assert "The imported videos are the user's: their terms are not known here" in text
    assert "sampled by" not in text
