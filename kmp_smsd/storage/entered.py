"""Who has an entry of this hour in the journal: most outcomes get one for each subscriber, however often they come."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

READ_BACK = 100_000  # entries, where a process or an hour begins: who was entered before them may be once more

_PAGE_OCTETS = 512  # of bits: a number that is far from all others, as only a hand can make one, takes no more
_LAST = """
SELECT outcome, subscriber FROM journal
WHERE id > (SELECT max(id) FROM journal) - ? AND hour = ? AND hold IS NULL"""


class EnteredThisHour:
    """The subscribers that were entered with an outcome. What a transaction adds counts once `commit` is called.

    An index of the journal would have each entry written to a page of its own. Subscribers are numbered from 1 on: of
    10,000,000, a bit for each takes 1.6 MB for each outcome.
    """

    def __init__(self) -> None:
        self._hour: int | None = None
        # By outcome, and by the subscriber's number without its last bits.
        self._pages: defaultdict[tuple[str, int], bytearray] = defaultdict(lambda: bytearray(_PAGE_OCTETS))
        self._new: list[tuple[bytearray, int, int]] = []

    def begin(self, connection: Any, hour: int) -> None:
        """Begin a transaction in `hour` (since 1970, UTC), forgetting what one that failed had added."""
        for page, octet, bit in self._new:
            page[octet] &= ~bit
        self._new.clear()
        if hour != self._hour:
            self._hour = None
            self._pages.clear()
            for outcome, subscriber in connection.execute(_LAST, (READ_BACK, hour)):
                page, octet, bit = self._bit(outcome, subscriber)
                page[octet] |= bit
            self._hour = hour

    def admit(self, outcome: str, subscriber: int) -> bool:
        """Whether this one was not among them; it is from now on."""
        page, octet, bit = self._bit(outcome, subscriber)
        if page[octet] & bit:
            return False
        self._new.append((page, octet, bit))  # first: where there is no memory for it, nobody would take the bit back
        page[octet] |= bit
        return True

    def commit(self) -> None:
        self._new.clear()

    def _bit(self, outcome: str, subscriber: int) -> tuple[bytearray, int, int]:
        """Its page, the octet in it, and the bit in that."""
        place, octet = divmod(subscriber >> 3, _PAGE_OCTETS)
        return self._pages[outcome, place], octet, 1 << (subscriber & 7)
