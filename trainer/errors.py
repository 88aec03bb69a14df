"""What can end a training early, apart from bad input."""

from __future__ import annotations

from pathlib import Path

from storage.errors import UserError


class NonFiniteLossError(UserError):
    """The loss or its gradient was not finite; no parameter was changed by that step."""

    def __init__(self, what: str, step: int, pair_ids: tuple[str, ...]) -> None:
        self.step = step
        self.pair_ids = pair_ids
        super().__init__(
            f"{what} is not finite at step {step} for the pairs {', '.join(pair_ids)}: the optimiser step "
            "was not taken. Look at the latents of these pairs, or lower the learning rate, and run again"
        )


class Interrupted(UserError):
    """A signal ended the training after a whole step; the checkpoint is written."""

    def __init__(self, signal_name: str, step: int, steps: int, out_dir: Path) -> None:
        self.signal_name = signal_name
        self.step = step
        super().__init__(
            f"training stopped by {signal_name} after step {step} of {steps}; the checkpoint is in "
            f"{out_dir}. The same command continues from it"
        )
