"""A tiny training as a program, for tests that start it with a launcher: MODEL OUT, then options as JSON.

It computes in float64. How many pairs share a matrix product, and how many processes a sum, decides in
which order numbers are added; in float32 that alone moves an error near 1 by 1e-7, which beta = 500 makes
1e-5 of the loss. In float64 the same computation agrees to 1e-13, and any real difference shows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from tests.trainer.conftest import build_pairs
from trainer.config import TrainConfig
from trainer.train import train


@contextmanager
def float64() -> Iterator[None]:
    """Whatever the trainer makes fp32, weights, adapter, noise and predictions, is fp64 inside."""
    double = patch.object(torch.Tensor, "float", torch.Tensor.double)
    with double, patch.dict("trainer.setup.DTYPES", fp32=torch.float64):
        yield


def train_tiny(model: Path, out: Path, options: dict[str, Any]) -> None:
    """Train on six random pairs, with three held out; the losses are in OUT/metrics.jsonl."""
    config = TrainConfig(
        model_dir=model,
        model="tiny",
        revision="r1",
        pairs_dir=out / "none",
        out_dir=out,
        rank=4,
        alpha=8,
        threads=1,
        report_to=(),
        **({"gradient_checkpointing": "off", "forward": "together"} | options),
    )
    held_out = build_pairs(9)
    held_out.rows = held_out.rows[6:]
    with float64():
        train(config, source=build_pairs(6), held_out=held_out, on_sample=lambda *_: {"motion_ratio": 1.0})


if __name__ == "__main__":
    train_tiny(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
