"""Rates of something that is counted, over the last 1, 5 and 15 minutes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

SAMPLE_EVERY_S = 5.0
WINDOWS_S = {"1m": 60.0, "5m": 300.0, "15m": 900.0}


class Rates:
    """Remembers what a counter showed. Times are monotonic seconds."""

    def __init__(self, count: int, now: float) -> None:
        self._samples = deque([(now, count)], maxlen=int(max(WINDOWS_S.values()) / SAMPLE_EVERY_S) + 1)

    def sample(self, count: int, now: float) -> None:
        """Take note of the counter; more often than every 5 seconds is as good as that."""
        if now - self._samples[-1][0] >= SAMPLE_EVERY_S:
            self._samples.append((now, count))

    def per_s(self, count: int, now: float) -> dict[str, float]:
        """How much was counted each second in each window, or since the beginning, where that is later."""
        return {name: round(self._per_s(count, now, window_s), 3) for name, window_s in WINDOWS_S.items()}

    def _per_s(self, count: int, now: float, window_s: float) -> float:
        at, before = next(
            sample for sample in self._samples if now - sample[0] <= window_s or sample is self._samples[-1]
        )
        return (count - before) / max(now - at, 1.0)


class RatesByName:
    """Those of several counters, each from the moment on at which it was first seen."""

    def __init__(self) -> None:
        self._rates: dict[str, Rates] = {}

    def per_s(self, name: str, count: int, now: float) -> dict[str, float]:
        """See Rates.per_s."""
        return self._rates.setdefault(name, Rates(count, now)).per_s(count, now)

    def sample(self, counts: Mapping[str, int], now: float) -> None:
        """Take note of all counters that there are; any other is forgotten."""
        self._rates = {name: self._rates.get(name) or Rates(count, now) for name, count in counts.items()}
        for name, count in counts.items():
            self._rates[name].sample(count, now)
