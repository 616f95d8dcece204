"""Token buckets: how much is taken from whom, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict


class Bucket:
    """One token bucket: `burst` at once, `per_s` each second after that."""

    __slots__ = ("_at", "_burst", "_per_s", "_tokens")

    def __init__(self, burst: float, per_s: float, now: float) -> None:
        self._burst, self._per_s = burst, per_s
        self._tokens, self._at = burst, now

    def left(self, now: float) -> int:
        """How many tokens may be taken at `now` (monotonic seconds)."""
        self._tokens = _filled(self._tokens, now - self._at, self._burst, self._per_s)
        self._at = now
        return int(self._tokens)

    def take(self, now: float) -> bool:
        """Take one token at `now` (monotonic seconds); False where none is left."""
        if self.left(now) < 1:
            return False
        self._tokens -= 1
        return True


class Buckets:
    """A bucket for each name, at most `limit` of them: the one created first is forgotten, and begins full again.

    They are tuples of two numbers, which the garbage collector soon leaves out: with an object for each it stopped
    everything for 50 ms.
    """

    def __init__(self, burst: float, per_s: float, limit: int = 100_000) -> None:
        self._burst, self._per_s, self._limit = burst, per_s, limit
        # The tokens of a name and when they were counted. A dict is slow to find its first entry.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, now: float) -> bool:
        """Take one token of `name` at `now` (monotonic seconds); False where it has none left."""
        bucket = self._buckets.get(name)
        if bucket is None:
            tokens = self._burst
            if len(self._buckets) >= self._limit:
                self._buckets.popitem(last=False)
        else:
            tokens, at = bucket
            tokens = _filled(tokens, now - at, self._burst, self._per_s)
        taken = tokens >= 1
        self._buckets[name] = (tokens - 1 if taken else tokens, now)
        return taken

    def __len__(self) -> int:
        return len(self._buckets)


def _filled(tokens: float, passed_s: float, burst: float, per_s: float) -> float:
    """What `tokens` have become after `passed_s`."""
    return min(burst, tokens + passed_s * per_s)
