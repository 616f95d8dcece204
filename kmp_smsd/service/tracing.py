"""The trace of a link: each of its PDUs in the log, for some minutes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from twisted.internet.base import DelayedCall
from twisted.logger import Logger

from kmp_smsd.domain.shown import masked
from kmp_smsd.service.rate import Bucket
from kmp_smsd.smpp.trace import Direction, traced

BURST, PER_S = 200, 50  # PDUs; a busy link has thousands a second, and nobody reads so many


def is_heard() -> bool:
    """Whether the log takes what a trace says: it does not where it was told to say little."""
    return logging.getLogger(__name__).isEnabledFor(logging.INFO)


class Trace:
    """Off until `start`. `monotonic` is the clock by which PDUs are told at most `PER_S` a second."""

    log = Logger()

    def __init__(self, link: str, reactor: Any, monotonic: Callable[[], float]) -> None:
        self._link = link
        self._reactor = reactor
        self._monotonic = monotonic
        self._bucket = Bucket(BURST, PER_S, monotonic())
        self._end: DelayedCall | None = None
        self._told = self._untold = 0

    @property
    def is_on(self) -> bool:
        return self._end is not None

    def start(self, minutes: float) -> None:
        """Tell PDUs from now on; where that is done already, for so many minutes from now."""
        if self._end is not None:
            self._end.cancel()
        else:
            self._told = self._untold = 0
        self._end = self._reactor.callLater(minutes * 60, self._over)
        self.log.info(
            "link {link}: its PDUs are traced for {minutes:g} min, or until the next reload",
            event="trace_started",
            link=self._link,
            minutes=minutes,
        )

    def end(self, reason: str) -> None:
        """Tell no more. Does nothing where it is off."""
        if self._end is None:
            return
        if self._end.active():
            self._end.cancel()
        self._end = None
        self.log.info(
            "link {link}: the trace ends, {reason}; PDUs shown: {pdus}, too fast to be shown: {untold}",
            event="trace_ended",
            link=self._link,
            reason=reason,
            pdus=self._told,
            untold=self._untold,
        )

    def tell(self, direction: Direction, pdu: bytes) -> None:
        """Log `pdu`, unless many were logged just now."""
        if not self._bucket.take(self._monotonic()):
            self._untold += 1
            return
        self._told += 1
        self.log.info(
            "link {link}: {direction} {pdu}",
            event="pdu_traced",
            link=self._link,
            direction=direction.value,
            pdu=traced(pdu, masked),
        )

    def _over(self) -> None:
        self.end("its time is over")
