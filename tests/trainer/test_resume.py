"""Interrupted and resumed is bit for bit the same as never interrupted."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from storage.adapters import WEIGHTS_NAME
from storage.errors import UserError
from trainer.config import TrainConfig
from trainer.processes import Interrupted
from trainer.saving.saved import TrainResult
from trainer.train import train

TIMING = {"seconds", "pairs_per_second"}


def logged(config: TrainConfig) -> list[dict[str, float]]:
    lines = (config.out_dir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMING} for line in lines]


def weights(result: TrainResult) -> dict[str, torch.Tensor]:
    return load_file(result.adapter_dir / "pytorch_lora_weights.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stop_at(step: int, number: int) -> Callable[[int, dict[str, float]], None]:
    def progress(done: int, _: dict[str, float]) -> None:
        if done == step:
            os.kill(os.getpid(), number)

    return progress


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_cleanly_and_the_same_call_continues(
    number: int, make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    pairs = make_pairs(5)
    straight = train(make_config("straight"), source=pairs)
    config = make_config("stopped")
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=r"after step 4 of 6.*same command continues") as caught:
        # The signal arrives while step 3 is reported, so one more whole step is made.
        train(config, stop_at(3, number), source=pairs)
    assert caught.value.step == 4
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert not (config.out_dir / "adapter").exists()
    resumed = train(config, source=pairs)
    assert logged(config) == logged(make_config("straight"))
    assert same(weights(resumed), weights(straight))
    assert [line["step"] for line in logged(config)] == [1, 2, 3, 4, 5, 6]


def test_a_crash_between_checkpoints_loses_nothing_but_time(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    pairs = make_pairs(5)
    options = {"grad_accum": 2, "max_timestep": 700, "schedule": "constant"}
    straight = train(make_config("straight", **options), source=pairs)
    config = make_config("crashed", **options)

    def crash(done: int, _: dict[str, float]) -> None:
        if done == 5:
            raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError, match="pulled"):
        train(config, crash, source=pairs)
    assert len(logged(config)) == 5
    with (config.out_dir / "metrics.jsonl").open("a") as log:
        log.write('{"step": 6, "lo')
    seen: list[int] = []
    resumed = train(config, lambda done, _: seen.append(done), source=pairs)
    assert seen == [5, 6], "it continues from the checkpoint of step 4"
    assert logged(config) == logged(make_config("straight", **options))
    assert same(weights(resumed), weights(straight))


def test_more_steps_of_a_constant_schedule_continue_a_finished_training(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    pairs = make_pairs(3)
    options = {"schedule": "constant", "warmup": 0}
    straight = train(make_config("straight", steps=5, **options), source=pairs)
    train(make_config("grown", steps=3, **options), source=pairs)
    grown = train(make_config("grown", steps=5, **options), source=pairs)
    assert logged(make_config("grown")) == logged(make_config("straight"))
    assert same(weights(grown), weights(straight))


def test_a_finished_training_is_returned_as_it_is(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    pairs, config = make_pairs(3), make_config()
    first = train(config, source=pairs)
    log = (config.out_dir / "metrics.jsonl").read_bytes()
    again = train(config, lambda *_: pytest.fail("there is nothing left to do"), source=pairs)
    assert again == first
    assert (config.out_dir / "metrics.jsonl").read_bytes() == log


@pytest.mark.parametrize("damage", ["truncated", "missing state", "flipped byte"])
def test_a_damaged_checkpoint_falls_back_and_says_so(
    damage: str,
    make_config: Callable[..., TrainConfig],
    make_pairs: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    pairs, config = make_pairs(3), make_config()
    straight = weights(train(config, source=pairs))
    lines = logged(config)
    newest = config.out_dir / "checkpoints" / "step-00000006"
    assert sorted(p.name for p in newest.parent.iterdir()) == ["step-00000004", "step-00000006"], "keep is 2"
    path = newest / ("state.json" if damage == "missing state" else "optimizer.safetensors")
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped byte":
        data[-3] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    with caplog.at_level(logging.WARNING):
        resumed = train(config, source=pairs)
    assert f"checkpoint {newest} is damaged" in caplog.text
    assert "continuing from checkpoint" in caplog.text
    assert "step-00000004" in caplog.text
    assert same(weights(resumed), straight)
    assert logged(config) == lines


def test_without_a_whole_checkpoint_it_starts_again_and_says_so(
    make_config: Callable[..., TrainConfig],
    make_pairs: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    pairs, config = make_pairs(3), make_config(keep=1)
    straight = weights(train(config, source=pairs))
    (config.out_dir / "checkpoints" / "step-00000006" / WEIGHTS_NAME).write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        resumed = train(config, source=pairs)
    assert "starts again from the first step" in caplog.text
    assert same(weights(resumed), straight)


@pytest.mark.parametrize(
    ("field", "value"),
    [("lr", 2e-3), ("beta", 100.0), ("seed", 1), ("warmup", 1), ("revision", "r2")],
)
def test_a_changed_configuration_is_refused_by_name(
    field: str, value: Any, make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    pairs = make_pairs(3)
    train(make_config(), source=pairs)
    if field == "revision":
        pairs.revision = value
    with pytest.raises(UserError, match=f"started with {field} .* now it is {value!r}"):
        train(make_config(**{field: value}), source=pairs)


def test_another_number_of_pairs_a_step_is_refused(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    train(make_config(), source=make_pairs(3))
    message = r"started with batch_size \* grad_accum \* processes 2, now it is 1: give the same value"
    with pytest.raises(UserError, match=message):
        train(make_config(batch_size=1), source=make_pairs(3))


def test_other_pairs_are_refused_but_another_place_is_not(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any], tmp_path: Path
) -> None:
    train(make_config(), source=make_pairs(3))
    with pytest.raises(UserError, match="started with pairs"):
        train(make_config(), source=make_pairs(4))
    train(make_config(checkpoint_every=3, keep=5, pairs_dir=tmp_path / "moved"), source=make_pairs(3))


SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from conftest import build_pairs
from trainer.config import TrainConfig
from trainer.train import train

def die(step, metrics):
    if step == 3:
        os.kill(os.getpid(), signal.SIGKILL)

import torch
torch.set_num_threads(1)
paths = {{k: Path(v) for k, v in {paths!r}.items()}}
train(TrainConfig(**paths, **{options!r}), die, source=build_pairs(5))
"""


def test_killed_outright_in_another_process_then_resumed(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    config = make_config("killed")
    fields = config.to_json()
    paths = {name: fields.pop(name) for name in ("model_dir", "pairs_dir", "out_dir")}
    script = SCRIPT.format(tests=str(Path(__file__).parent), paths=paths, options=fields)
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    process = subprocess.run([sys.executable, "-c", script], env=env, check=False, capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    assert len(logged(config)) == 3
    resumed = train(config, source=make_pairs(5))
    straight = train(make_config("straight"), source=make_pairs(5))
    assert logged(config) == logged(make_config("straight"))
    assert same(weights(resumed), weights(straight))


def test_an_eight_bit_optimiser_resumes_bit_for_bit(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any]
) -> None:
    pytest.importorskip("bitsandbytes")
    # Matrices of fewer than 4096 numbers keep their state in 32 bits.
    options = {"optimizer": "adamw8bit", "rank": 128, "schedule": "constant", "checkpoint_every": 3}
    pairs = make_pairs(4)
    whole: list[float] = []
    train(make_config("whole", steps=6, **options), lambda _, m: whole.append(m["loss"]), source=pairs)
    parts: list[float] = []
    for steps in (3, 6):
        train(
            make_config("parts", steps=steps, **options), lambda _, m: parts.append(m["loss"]), source=pairs
        )
    assert parts == whole
    state = load_file(
        next((make_config("parts").out_dir / "checkpoints").glob("*6")) / "optimizer.safetensors"
    )
    assert {value.dtype for name, value in state.items() if name.endswith("state1")} == {torch.uint8}


def test_a_missing_eight_bit_optimiser_names_the_package(
    make_config: Callable[..., TrainConfig], make_pairs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match=r"needs bitsandbytes .*: pip install bitsandbytes, or take adamw"):
        train(make_config(optimizer="adamw8bit"), source=make_pairs(2))
