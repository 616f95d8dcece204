"""Which senders that are not registered here the journal names: a flood of forged numbers must not fill it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from kmp_smsd.domain.outcome import Outcome

STRANGERS_AN_HOUR = 1_000  # journal entries per link; an intake that starts again begins to count again

Named = tuple[str, Outcome]  # MDN, outcome


@dataclass(slots=True)
class Strangers:
    """Who has an entry this hour, by link. What a transaction adds counts once `commit` is called."""

    _hour: int = 0
    _named: defaultdict[str, set[Named]] = field(default_factory=lambda: defaultdict(set))
    _new: defaultdict[str, set[Named]] = field(default_factory=lambda: defaultdict(set))

    def begin(self, hour: int) -> None:
        """Begin a transaction in `hour`, forgetting what one that failed had added."""
        self._new.clear()
        if hour != self._hour:
            self._named.clear()
            self._hour = hour

    def is_named(self, link: str, stranger: Named) -> bool:
        return stranger in self._named[link] or stranger in self._new[link]

    def name(self, link: str, stranger: Named) -> bool:
        """Whether `stranger` gets an entry."""
        if len(self._named[link]) + len(self._new[link]) >= STRANGERS_AN_HOUR:
            return False
        self._new[link].add(stranger)
        return True

    def commit(self) -> None:
        for link, new in self._new.items():
            self._named[link] |= new
        self._new.clear()
