"""The timers of a session (SMPP 3.4, section 7.2), with the time as an argument."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto


class Due(Enum):
    """What a timer asks for."""

    NOTHING = auto()
    ENQUIRE = auto()
    DROP = auto()


@dataclass(frozen=True, slots=True)
class LinkTimer:
    """Tells when to send enquire_link and when to give the link up.

    Any PDU from the peer is a sign of life, not only the enquire_link_resp (SMPP 5.0, section 4.1.2).
    `enquire_after_s` None sends none.
    """

    enquire_after_s: float | None
    answer_within_s: float
    last_heard: float  # monotonic seconds
    enquired_at: float | None = None

    def heard(self, now: float) -> LinkTimer:
        """Return the timer after a PDU from the peer."""
        return LinkTimer(self.enquire_after_s, self.answer_within_s, now)  # for each message: `replace` is slow

    def enquired(self, now: float) -> LinkTimer:
        """Return the timer after an enquire_link was sent."""
        return replace(self, enquired_at=now)

    def check(self, now: float) -> Due:
        """Say what is due at `now`."""
        if self.enquired_at is not None:
            return Due.DROP if now - self.enquired_at >= self.answer_within_s else Due.NOTHING
        if self.enquire_after_s is None:
            return Due.NOTHING
        return Due.ENQUIRE if now - self.last_heard >= self.enquire_after_s else Due.NOTHING


@dataclass(frozen=True, slots=True)
class Deadline:
    """Something that must happen within a time, while it is awaited."""

    within_s: float
    since: float | None = None  # monotonic seconds; None while nothing is awaited

    def started(self, now: float) -> Deadline:
        """Return the deadline counted from `now`."""
        return replace(self, since=now)

    def stopped(self) -> Deadline:
        """Return the deadline while nothing is awaited."""
        return self if self.since is None else Deadline(self.within_s)

    def is_over(self, now: float) -> bool:
        """True once the time has run out."""
        return self.since is not None and now - self.since >= self.within_s
