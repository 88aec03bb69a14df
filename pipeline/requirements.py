"""What work needs and does not find, all at once: whoever fetches weights fetches them in one go."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rewards.errors import RewardError
from storage.errors import UserError


class _Several(UserError):
    """What several checks say, each a sentence."""

    def __init__(self, said: Sequence[str]) -> None:
        listed = " ".join(f"({number}) {text.rstrip('.')}." for number, text in enumerate(said, start=1))
        super().__init__(f"{len(said)} things are missing: {listed}")
        self.said = tuple(said)


def require_all(*checks: Callable[[], object]) -> None:
    """Make every check; raise what the one that fails raises, or a UserError with what several say.

    A check may be such a list itself.
    """
    failed: list[UserError | RewardError] = []
    for check in checks:
        try:
            check()
        except (UserError, RewardError) as error:
            failed.append(error)
    said = [
        text for error in failed for text in (error.said if isinstance(error, _Several) else [str(error)])
    ]
    several = list(dict.fromkeys(said))
    if len(several) > 1:
        raise _Several(several)
    if failed:
        raise failed[0]
