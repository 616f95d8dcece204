"""Whether a thread gets on with what it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from kmp_smsd.storage.lock_waits import Waits

Result = TypeVar("Result")


class Busy:
    """Follows the jobs of one thread, which does them in order; kept in the reactor's thread, so that a stall shows.

    After a long wait for the write lock (`lock_wait`) the thread counts as having just begun.
    """

    def __init__(self, monotonic: Callable[[], float], lock_wait: Waits | None = None) -> None:
        self._monotonic = monotonic
        self._lock_wait = lock_wait
        self._jobs = 0
        self._since = 0.0  # monotonic seconds: the first of them cannot have been begun before
        self._ended_at = monotonic()

    def begun(self) -> None:
        """A job was given to the thread."""
        if self._jobs == 0:
            self._since = self._monotonic()
        self._jobs += 1

    def ended(self, result: Result) -> Result:
        """A job has ended; returns what came of it."""
        self._jobs -= 1
        self._since = self._ended_at = self._monotonic()
        return result

    @property
    def stuck_s(self) -> float:
        """For how long the present job has been under way, at most; 0 where there is none."""
        return min(self._monotonic() - self._since, self._waited_ago_s) if self._jobs else 0.0

    @property
    def silent_s(self) -> float:
        """For how long no job has ended, whether one is under way or not."""
        return min(self._monotonic() - self._ended_at, self._waited_ago_s)

    @property
    def waits_for_others(self) -> bool:
        """Whether another process has the write lock that the thread waits for."""
        return self._lock_wait is not None and self._lock_wait.is_for_others

    @property
    def _waited_ago_s(self) -> float:
        return float("inf") if self._lock_wait is None else self._lock_wait.over_s
