"""Which settings of a sampler decide the id of a candidate, and which are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.models import ModelRef
from pipeline.sampling.sample import candidate_id
from pipeline.sampling.settings import Execution, SamplerSettings
from tests.pipeline.tiny import SAMPLER

MODEL = ModelRef(name="world", revision="r1", path=Path("x"), family="f")
WORLD = {"steps": 10, "guidance": 1.0, "height": 64, "width": 64, "num_frames": 9, "fps": 8}


def test_the_ids_of_earlier_runs_stay_what_they_were() -> None:
    settings = SamplerSettings(**WORLD, max_sequence_length=24)
    assert set(settings.as_dict()) == {*WORLD, "max_sequence_length", "precision"}
    assert candidate_id(MODEL, None, "prompt", settings, 7) == "d4529910239698f1e9bfd2ec33a4f1a4"


def test_what_changes_a_candidate_changes_its_id_and_nothing_else_does() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"negative_prompt": "blur"},
        {"negative_prompt": "haze"},
        {"vae_tiling": True},
        {"adapter_weight": 0.5},
    ]
    given = [SamplerSettings(**WORLD | {"guidance": 4.0}, max_sequence_length=24, **one) for one in changes]
    assert len({candidate_id(MODEL, None, "prompt", one, 7) for one in given}) == len(changes)
    assert given[4].as_dict()["adapter_weight"] == 0.5
    assert not set(Execution.__dataclass_fields__) & set(SamplerSettings.__dataclass_fields__)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"negative_prompt": "blur"},
            "negative_prompt must be empty unless guidance is above 1 .*got 'blur'",
        ),
        ({"adapter_weight": float("nan")}, "adapter_weight must be finite, got nan"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplerSettings(**{**SAMPLER, **changes})
