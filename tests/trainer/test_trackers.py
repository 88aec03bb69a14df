"""Trackers beside the log: each step once, in one run of theirs, and none that is not installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from storage.errors import UserError
from tests.trainer.conftest import build_pairs
from tests.trainer.test_ending import stopped
from tests.trainer.test_resume import logged
from trainer.config import TrainConfig
from trainer.train import train

Make = Callable[..., TrainConfig]


class FakeWandb:
    """What accelerate's tracker of that name takes and is asked to do."""

    requires_logging_directory = False
    made: ClassVar[list[FakeWandb]] = []

    def __init__(self, project: str, **options: Any) -> None:
        self.project, self.options = project, options
        self.steps: list[int] = []
        self.config: dict[str, Any] = {}
        self.ended = False
        self.made.append(self)

    def start(self) -> None:
        assert not self.steps

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, float], step: int) -> None:
        assert "train/loss" in values
        self.steps.append(step)

    def finish(self) -> None:
        self.ended = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[FakeWandb]:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", FakeWandb)
    monkeypatch.setattr("trainer.watching.trackers.get_available_trackers", lambda: ["wandb", "tensorboard"])
    FakeWandb.made.clear()
    return FakeWandb.made


def test_a_resumed_training_reports_every_step_once_to_one_run(
    wandb: list[FakeWandb], make_config: Make
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pairs = build_pairs(3)
    config = make_config(report_to=("wandb", "tensorboard"))
    stopped(config, pairs, 5)
    train(config, source=pairs)
    first, second = wandb
    assert first.steps == [1, 2, 3, 4, 5]
    assert second.steps == [6], "step 5 was computed again, and was the same"
    assert first.options == second.options
    assert first.options["resume"] == "allow"
    assert first.config["lr"] == config.lr
    assert first.ended
    assert second.ended
    assert [line["step"] for line in logged(config)] == [1, 2, 3, 4, 5, 6]
    events = EventAccumulator(str(config.out_dir / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    # Another training is another run; a finished one opens none.
    train(make_config("other", report_to=("wandb",)), source=pairs)
    assert wandb[2].options["id"] != first.options["id"]
    train(config, source=pairs)
    assert len(wandb) == 3


def test_none_reports_nowhere(make_config: Make) -> None:
    config = make_config(steps=1, report_to=("none",))
    train(config, source=build_pairs(2))
    assert len(logged(config)) == 1
    assert not (config.out_dir / "tensorboard").exists()


def test_a_tracker_that_is_not_installed_is_named_before_weights_load(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.loop.load_adapted", lambda *_: pytest.fail("weights are loaded"))
    monkeypatch.setattr("trainer.watching.trackers.get_available_trackers", lambda: ["tensorboard"])
    with pytest.raises(UserError, match=r"`report_to` comet_ml needs the package comet-ml, .* pip install"):
        train(make_config(report_to=("comet_ml",)), source=build_pairs(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"max_timestep": 1000},
            r"timesteps 0 to 1000 are not within the scheduler's 0 to 999: change `min_",
        ),
        ({"shard": True}, "`shard` needs several processes"),
    ],
)
def test_options_are_looked_at_before_weights_load(
    options: dict[str, Any], message: str, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.loop.load_adapted", lambda *_: pytest.fail("weights are loaded"))
    with pytest.raises(UserError, match=message):
        train(make_config(**options), source=build_pairs(2))
