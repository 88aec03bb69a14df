"""Errors in a row: whether the tasks are at fault or the worker, whose tasks are then tried elsewhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable

from pipeline.engine.stage import Task, TaskOutcome

# So many errors of one worker, one after the other, while tasks succeed elsewhere or did before.
_MOST = 3


class Streaks:
    """Keeps errors back until it is clear whose they are.

    A worker whose next task succeeds is well: its errors are its tasks'. One with three in a row is given up
    and its tasks are tried once more, by another worker; what fails there too has failed. Where no task of a
    worker that was given up succeeded elsewhere, or none ever did, the fault is in the tasks or in the code,
    and no other worker is given up for it.
    """

    def __init__(self) -> None:
        self._held: dict[Hashable, list[tuple[Task, TaskOutcome]]] = defaultdict(list)
        self._elsewhere: dict[str, int] = {}
        self._given_up = 0
        self._mended: set[int] = set()
        self._any_success = False

    def add(self, worker: Hashable, task: Task, outcome: TaskOutcome) -> list[TaskOutcome]:
        """Take what became of a task; return the outcomes that are certain by now."""
        number = self._elsewhere.get(task.key)
        if not outcome.is_error:
            self._any_success = True
            if number is not None:
                self._mended.add(number)
            return [*self.release(worker), outcome]
        trusted = not self._any_success or (self._given_up and self._given_up not in self._mended)
        if number is not None or trusted:
            return [*self.release(worker), outcome]
        self._held[worker].append((task, outcome))
        return []

    def sick(self, worker: Hashable) -> list[Task]:
        """The tasks of a worker that is to be given up, to be tried elsewhere; none for one that is well."""
        if len(self._held.get(worker, ())) < _MOST:
            return []
        self._given_up += 1
        tasks = [task for task, _ in self._held.pop(worker)]
        self._elsewhere.update({task.key: self._given_up for task in tasks})
        return tasks

    def release(self, worker: Hashable) -> list[TaskOutcome]:
        """The errors of a worker that does no more, or that is well."""
        return [outcome for _, outcome in self._held.pop(worker, ())]

    def release_all(self) -> list[TaskOutcome]:
        """All errors that are kept back: nothing more will come."""
        return [outcome for worker in list(self._held) for outcome in self.release(worker)]
