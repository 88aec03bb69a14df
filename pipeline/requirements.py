"""What work needs and does not find, all at once: whoever fetches weights fetches them in one go."""

from __future__ import annotations

from collections.abc import Callable

from rewards.errors import RewardError
from storage.errors import UserError


def require_all(*checks: Callable[[], object]) -> None:
    """Make every check; raise what the one that fails raises, or a UserError with what several say."""
    failed: list[UserError | RewardError] = []
    for check in checks:
        try:
            check()
        except (UserError, RewardError) as error:
            failed.append(error)
    said = list(dict.fromkeys(str(error) for error in failed))
    if len(said) > 1:
        listed = " ".join(f"({number}) {text}." for number, text in enumerate(said, start=1))
        raise UserError(f"{len(said)} things are missing: {listed}")
    if failed:
        raise failed[0]
