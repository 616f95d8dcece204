"""The beat of the reactor: what is looked at every second, and how late that is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from kmp_smsd.service.watching import Watch

BEAT_EVERY_S = 1.0
REMEMBERED_BEATS = 10


class Pulse:
    """Calls `beat` every second and knows how late the reactor was. `monotonic` is its clock, in seconds."""

    def __init__(self, beat: Callable[[], Any], reactor: Any, *, monotonic: Callable[[], float]) -> None:
        self._beat = beat
        self._monotonic = monotonic
        self._watch = Watch(self._look, reactor)
        self._last_at: float | None = None
        self._late: deque[float] = deque(maxlen=REMEMBERED_BEATS)

    def start(self) -> None:
        self._watch.start(BEAT_EVERY_S)

    def stop(self) -> None:
        self._watch.stop()

    @property
    def lag_s(self) -> float:
        """By how many seconds the latest of the last 10 beats came too late, or the next one is late by now."""
        if self._last_at is None:
            return 0.0
        return max(0.0, *self._late, self._monotonic() - self._last_at - BEAT_EVERY_S)

    def _look(self) -> None:
        now = self._monotonic()
        if self._last_at is not None:
            self._late.append(now - self._last_at - BEAT_EVERY_S)
        self._last_at = now
        self._beat()
