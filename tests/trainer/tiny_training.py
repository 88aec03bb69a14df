"""A tiny training as a program, for tests that start it with a launcher: MODEL OUT, then options as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.trainer.conftest import build_pairs
from trainer.config import TrainConfig
from trainer.loop import train


def main() -> None:
    """Train on six random pairs, with three held out; the losses are in OUT/metrics.jsonl."""
    model, out, options = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    config = TrainConfig(
        model_dir=model,
        model="tiny",
        revision="r1",
        pairs_dir=out / "none",
        out_dir=out,
        rank=4,
        alpha=8,
        threads=1,
        tensorboard=False,
        **({"gradient_checkpointing": "off", "forward": "together"} | options),
    )
    held_out = build_pairs(9)
    held_out.rows = held_out.rows[6:]
    train(config, source=build_pairs(6), held_out=held_out, on_sample=lambda *_: {"motion_ratio": 1.0})


if __name__ == "__main__":
    main()
