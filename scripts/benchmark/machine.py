"""How steady the machine itself is: no answer time is shorter than what the machine stands still, or all but that."""

from __future__ import annotations

import time
from statistics import median

from benchmark.sample import road

_WORK = range(2_000)  # some 20 us of a processor, and next to no memory
_SLOW = 3  # so many times its median


def steadiness(seconds: float) -> dict[str, object]:
    """A row: for what part of the time a small piece of work, which nobody disturbs, takes three times its median."""
    took_s: list[float] = []
    began = before = time.perf_counter()
    while before < began + seconds:
        sum(_WORK)
        now = time.perf_counter()
        took_s.append(now - before)
        before = now
    usual_s = median(took_s)
    slow_s = sum(one for one in took_s if one > _SLOW * usual_s)
    part = slow_s / (before - began)
    return road(
        "the machine alone", len(took_s), before - began, limit=f"slow (under 1/{_SLOW}) for {part:.1%} of the time"
    )
