"""The wall clock, for what is deleted by it: where it is set far ahead, everything seems old."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

from twisted.logger import Logger

SET_AHEAD_S: Final = 3_600.0  # by so much at once nobody's clock is corrected but after a start, or a machine's sleep
SET_BACK_S: Final = 60.0  # by so much at once nobody's clock is corrected but by hand, or after a start
SILENT_S: Final = 7 * 86_400.0  # whoever was not stopped for so long had a message in it
BELIEVED_AFTER_S: Final = 86_400.0  # in which people see it

log = Logger()


class BelievedClock:
    """Goes by `wall` (Unix seconds), but with `monotonic` where that was last set ahead less than a day ago.

    The clock of the start is believed at once unless it is more than a week after `last_at`, the last known moment.
    """

    def __init__(self, wall: Callable[[], float], monotonic: Callable[[], float], last_at: float | None = None) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._ahead_s = wall() - monotonic()  # of the wall clock, as far as it is believed
        self._seen_ahead_s = self._ahead_s
        self._believed_at = inf  # monotonic seconds; where the wall clock was set ahead
        if last_at is not None and (silent_s := wall() - last_at) > SILENT_S:
            self._ahead_s -= silent_s
            self._believed_at = monotonic() + BELIEVED_AFTER_S
            log.warn(
                "no message came for {seconds} s, or the clock is ahead: for a day nothing is deleted by it",
                event="clock_in_doubt",
                seconds=round(silent_s),
            )

    def now(self) -> float:
        """Unix seconds. To be asked often: what the clock was corrected by between two calls counts as one step."""
        now = self._monotonic()
        ahead_s = self._wall() - now
        set_by_s, self._seen_ahead_s = ahead_s - self._seen_ahead_s, ahead_s
        if set_by_s < -SET_BACK_S:
            log.warn(
                "the clock was set back by {seconds} s: until it is where it was, messages may be held as late",
                event="clock_set_back",
                seconds=round(-set_by_s),
            )
        if ahead_s - self._ahead_s < SET_AHEAD_S:
            self._believe(ahead_s)
        elif set_by_s >= SET_AHEAD_S:  # once more, it may be: then the day begins anew
            self._believed_at = now + BELIEVED_AFTER_S
            log.warn(
                "the clock was set ahead by {seconds} s: for a day nothing is deleted by it",
                event="clock_set_ahead",
                seconds=round(set_by_s),
            )
        elif now >= self._believed_at:
            self._believe(ahead_s)
        return now + self._ahead_s

    def _believe(self, ahead_s: float) -> None:
        self._ahead_s, self._believed_at = ahead_s, inf
