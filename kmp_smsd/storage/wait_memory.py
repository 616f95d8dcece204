"""What a helper process shows of its wait for the write lock, to the process that it helps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import mmap

LONG_S = 3.0  # of a wait: a transaction takes milliseconds
BEAT_WITHIN_S = 10.0  # a helper shows that it is alive every second


class WaitMemory:
    """What a helper shows of its wait in memory that it shares with the process that it helps.

    Each value is written at once (by struct it would not be). All are monotonic seconds, which are the same for both,
    and 0 for never.
    """

    OCTETS = 32
    _SINCE, _ENDED_AT, _HELD_SINCE, _BEAT_AT = range(4)

    def __init__(self, memory: mmap) -> None:
        self._memory = memoryview(memory).cast("d")

    def clear(self) -> None:
        """The helper has ended: it waits for nothing and holds nothing."""
        if self._get(self._SINCE):
            self._set(self._ENDED_AT, time.monotonic())
        for place in (self._SINCE, self._HELD_SINCE, self._BEAT_AT):
            self._set(place, 0.0)

    @contextmanager
    def waiting(self, since: float) -> Iterator[None]:
        """Around a wait that began then."""
        self.beat()
        self._set(self._SINCE, since)
        try:
            yield
        finally:
            now = time.monotonic()
            if now - since >= LONG_S:
                self._set(self._ENDED_AT, now)
            self._set(self._SINCE, 0.0)

    def taken(self) -> None:
        """The helper has the lock."""
        self._set(self._HELD_SINCE, time.monotonic())

    def released(self) -> None:
        """The helper is about to give the lock back."""
        self._set(self._HELD_SINCE, 0.0)

    def beat(self) -> None:
        """The helper is alive: to be called every second."""
        self._set(self._BEAT_AT, time.monotonic())

    @property
    def since(self) -> float | None:
        """Since when a helper that is alive has waited; None where it does not, or has not shown any life lately."""
        if time.monotonic() - self._get(self._BEAT_AT) > BEAT_WITHIN_S:
            return None  # it was stopped while it waited, and may have the lock by now
        return self._get(self._SINCE) or None

    @property
    def ended_at(self) -> float:
        """When its last long wait ended."""
        return self._get(self._ENDED_AT)

    @property
    def holds(self) -> bool:
        """Whether it holds the lock."""
        return bool(self._get(self._HELD_SINCE))

    def _get(self, place: int) -> float:
        return self._memory[place]

    def _set(self, place: int, value: float) -> None:
        self._memory[place] = value
