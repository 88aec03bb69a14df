"""The variants of a step differ in how, never in what: equal losses; and figures that follow from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jobs.bench.training.architectures import ARCHITECTURES, architecture
from jobs.bench.training.loading import AGAIN, FILES, SHARDS, measure_loading, write_both
from jobs.bench.training.report import figures, matmul_ceiling, measure
from jobs.bench.training.variants import CACHED, FRESH, OBVIOUS, Variant, Workload, prepare
from storage.errors import UserError
from storage.pairs.dataset import PairDataset
from tests.trainer.conftest import build_transformer, save_model
from trainer.families.base import PairShapes

SHAPES = PairShapes(latent=(3, 4, 4, 6), prompt=(5, 12), image=(3, 4, 4, 6), num_frames=9)


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    return Workload(
        model_dir=save_model(tmp_path_factory.mktemp("model"), build_transformer()),
        architecture=None,
        shapes=SHAPES,
        pairs=4,
        rank=4,
        precision="fp32",
        device="cpu",
        gradient_checkpointing=False,
    )


def test_every_variant_takes_the_same_steps(workload: Workload) -> None:
    variants = [
        Variant(name=f"{kind} {micro}", kind=kind, micro=micro)
        for kind in (OBVIOUS, FRESH, CACHED)
        for micro in (4, 1)
    ]
    losses = []
    for variant in variants:
        step = prepare(workload, variant)
        losses.append([step() for _ in range(4)])
    assert losses[0][0] == pytest.approx(0.693147, abs=1e-6)
    assert losses[0][3] != losses[0][0]
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], abs=5e-5)


@pytest.mark.long(
    reason="four processes that load torch; make test takes the steps of every variant in one process, and "
    "starts a process that fails"
)
def test_processes_are_measured_in_turn_and_compared_with_the_first(workload: Workload) -> None:
    variants = [Variant(name=OBVIOUS, kind=OBVIOUS, micro=4), Variant(name=CACHED, kind=CACHED, micro=2)]
    ticks: list[None] = []
    found = measure(workload, variants, rounds=2, threads=1, progress=lambda: ticks.append(None))
    assert len(ticks) == 2 * 3
    assert found[OBVIOUS].losses == pytest.approx(found[CACHED].losses, abs=1e-5)
    assert all(one.peak_bytes > 0 and len(one.seconds) == 2 for one in found.values())
    first, second = figures(workload, variants, found, ceiling=1e9)
    assert (first.faster, first.memory) == (1.0, 1.0)
    assert second.memory == found[CACHED].peak_bytes / found[OBVIOUS].peak_bytes
    # The cached variant needs fewer operations a pair.
    assert first.share / first.pairs_per_second > 1.2 * second.share / second.pairs_per_second


def test_what_a_process_said_is_told(workload: Workload) -> None:
    from dataclasses import replace

    broken = replace(workload, model_dir=Path("/nowhere"))
    with pytest.raises(RuntimeError, match=r"obvious: UserError: .*nowhere is not a diffusers model folder"):
        measure(broken, [Variant(name=OBVIOUS, kind=OBVIOUS, micro=4)], rounds=1, threads=1)


def test_the_ceiling_is_a_rate() -> None:
    assert 1e8 < matmul_ceiling("fp32", "cpu", 1) < 1e14


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("cogvideox-2b", 1.69),
        ("cogvideox-5b", 5.57),
        ("cogvideox-5b-i2v", 5.62),
        ("cogvideox1.5-5b", 5.57),
        ("cogvideox1.5-5b-i2v", 5.57),
        ("wan2.1-t2v-1.3b", 1.42),
        ("wan2.1-t2v-14b", 14.29),
        ("wan2.1-i2v-14b-480p", 16.40),
        ("wan2.2-ti2v-5b", 5.0),
    ],
)
def test_published_architectures_have_the_published_sizes(name: str, billions: float) -> None:
    family = architecture(name).build(torch.bfloat16, "meta")
    count = sum(parameter.numel() for parameter in family.transformer.parameters())
    assert count / 1e9 == pytest.approx(billions, rel=0.01)
    family.check(architecture(name).shapes(49, 480, 704 if "wan2.2" in name else 720))


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(UserError, match="no published sizes of 'sora' are known here"):
        architecture("sora")
    assert len(ARCHITECTURES) == 9


def test_both_ways_of_loading_hold_the_same_pairs(tmp_path: Path) -> None:
    size = write_both(tmp_path, SHAPES, 6)
    assert size == 3 * 3 * 4 * 4 * 6 * 4 + 5 * 12 * 2
    dataset = PairDataset(tmp_path / "run" / "pairs")
    assert len(dataset) == 6
    for number in range(6):
        row = dataset.read(number)
        for name in ("winner_latents", "loser_latents", "prompt_embeds", "image_latents"):
            stored = torch.load(tmp_path / "files" / f"{number}-{name}.pt", weights_only=True)
            assert torch.equal(getattr(row, name), stored)
    found = measure_loading(tmp_path, 6, rounds=2)
    assert [row.name for row in found] == [SHARDS, AGAIN, FILES]
    assert all(len(row.cold) == len(row.warm) == 2 and min(row.cold + row.warm) > 0 for row in found)
