"""Who has an entry of this hour in the journal: most outcomes get one for each subscriber, however often they come."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

READ_BACK = 100_000  # entries, by a process that begins: what the hour had before them may be entered once more

_GROWTH = 1 << 12  # octets of bits at once
_LAST = """
SELECT outcome, subscriber FROM journal
WHERE id > (SELECT max(id) FROM journal) - ? AND hour = ? AND outcome NOT IN ('bound', 'moved') AND hold IS NULL"""


class EnteredThisHour:
    """The subscribers that were entered with an outcome. What a transaction adds counts once `commit` is called.

    An index of the journal would have each entry written to a page of its own. Subscribers are numbered from 1 on: of
    10,000,000, a bit for each takes 1.25 MB for each outcome.
    """

    def __init__(self) -> None:
        self._hour: int | None = None
        self._bits: defaultdict[str, bytearray] = defaultdict(bytearray)  # by outcome
        self._new: list[tuple[str, int]] = []

    def begin(self, connection: Any, hour: int) -> None:
        """Begin a transaction in `hour` (since 1970, UTC), forgetting what one that failed had added."""
        for outcome, subscriber in self._new:
            self._bits[outcome][subscriber >> 3] ^= 1 << (subscriber & 7)
        self._new.clear()
        if hour != self._hour:
            self._hour = None
            self._bits.clear()
            for outcome, subscriber in connection.execute(_LAST, (READ_BACK, hour)):
                self._enter(outcome, subscriber)
            self._hour = hour

    def admit(self, outcome: str, subscriber: int) -> bool:
        """Whether this one was not among them; it is from now on."""
        if not self._enter(outcome, subscriber):
            return False
        self._new.append((outcome, subscriber))
        return True

    def commit(self) -> None:
        self._new.clear()

    def _enter(self, outcome: str, subscriber: int) -> bool:
        bits = self._bits[outcome]
        octet, bit = subscriber >> 3, 1 << (subscriber & 7)
        if octet >= len(bits):
            bits.extend(bytes(octet - len(bits) + _GROWTH))
        if bits[octet] & bit:
            return False
        bits[octet] |= bit
        return True
