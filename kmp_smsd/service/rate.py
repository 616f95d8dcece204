"""Token buckets: how much is taken from whom, in bounded memory."""

from __future__ import annotations

_ROUNDING = 1e-6  # of a token: moments are as exact as that


class Bucket:
    """One token bucket: `burst` at once, `per_s` each second after that."""

    __slots__ = ("_at", "_burst", "_per_s", "_tokens")

    def __init__(self, burst: float, per_s: float, now: float) -> None:
        self._burst, self._per_s = burst, per_s
        self._tokens, self._at = burst, now

    def left(self, now: float) -> int:
        """How many tokens may be taken at `now` (monotonic seconds)."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        return int(self._tokens)

    def take(self, now: float) -> bool:
        """Take one token at `now` (monotonic seconds); False where none is left."""
        if self.left(now) < 1:
            return False
        self._tokens -= 1
        return True


class Buckets:
    """A bucket for each name: the last `limit` names are remembered, and no more than twice as many.

    Who was away for longer is forgotten, and begins full again. Of each it knows the moment at which it is full, which
    says all (as the generic cell rate algorithm of ITU-T I.371): one number takes little memory. With an object for
    each, the garbage collector stopped everything for 50 ms.
    """

    def __init__(self, burst: float, per_s: float, limit: int = 50_000) -> None:
        self._limit = limit
        self._token_s = 1 / per_s
        self._one_left_s = (burst - 1 + _ROUNDING) / per_s  # so long before it is full, a bucket has one token left
        # In monotonic seconds. At most `limit` names came lately; once it is so many, those that only came before them
        # are forgotten. To keep all names in their order takes twice the time: it is scattered over the memory.
        self._lately: dict[str, float] = {}
        self._before: dict[str, float] = {}

    def take(self, name: str, now: float) -> bool:
        """Take one token of `name` at `now` (monotonic seconds); False where it has none left."""
        full_at = self._lately.get(name)
        if full_at is None:
            if len(self._lately) >= self._limit:
                self._lately, self._before = {}, self._lately
            full_at = self._before.get(name, now)
        if full_at < now:
            full_at = now
        has_one = full_at - now <= self._one_left_s
        self._lately[name] = full_at + self._token_s if has_one else full_at
        return has_one

    def __len__(self) -> int:
        return len(self._lately) + len(self._before)
