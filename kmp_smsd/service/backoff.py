"""How long to wait before the next try."""

from __future__ import annotations

from collections.abc import Callable
from random import random


class Backoff:
    """Doubles from `min_s` to `max_s`, in seconds, with jitter: each wait is between a half and all of its step.

    The jitter keeps links that were lost together from coming back together.
    """

    def __init__(self, min_s: float, max_s: float, jitter: Callable[[], float] = random) -> None:
        self._min_s = min_s
        self._max_s = max_s
        self._jitter = jitter
        self._step_s = min_s

    def next_s(self, at_least_s: float = 0.0) -> float:
        """Return the next wait. Where the case asks for a longer one, that is jittered instead: upwards, by a half."""
        step_s, self._step_s = self._step_s, min(self._step_s * 2, self._max_s)
        wait_s = step_s * (1 + self._jitter()) / 2
        return max(wait_s, at_least_s * (1 + self._jitter() / 2))

    def reset(self) -> None:
        """Begin again at the shortest wait."""
        self._step_s = self._min_s
