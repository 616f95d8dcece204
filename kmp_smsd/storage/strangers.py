"""What a flood of forged senders may add to the journal and the tallies: so much an hour and link."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field

STRANGERS_AN_HOUR = 1_000  # senders that are not registered here, each with an outcome: entries in the journal
CLASSES_AN_HOUR = 1_000  # classes of such senders, each with an outcome: rows in the tallies


@dataclass(slots=True)
class FirstOfAnHour:
    """The first `most` different things of an hour, by link. What a transaction adds counts once `commit` is called.

    A process that decides begins to count when it begins.
    """

    most: int
    _hour: int = 0
    _known: defaultdict[str, set[Hashable]] = field(default_factory=lambda: defaultdict(set))
    _new: defaultdict[str, set[Hashable]] = field(default_factory=lambda: defaultdict(set))

    def begin(self, hour: int) -> None:
        """Begin a transaction in `hour`, forgetting what one that failed had added."""
        self._new.clear()
        if hour != self._hour:
            self._known.clear()
            self._hour = hour

    def has(self, link: str, one: Hashable) -> bool:
        """Whether `one` is among them."""
        return one in self._known[link] or one in self._new[link]

    def admit(self, link: str, one: Hashable) -> bool:
        """Whether `one` is among them from now on, if it was not."""
        if self.has(link, one):
            return True
        if len(self._known[link]) + len(self._new[link]) >= self.most:
            return False
        self._new[link].add(one)
        return True

    def commit(self) -> None:
        for link, new in self._new.items():
            self._known[link] |= new
        self._new.clear()
