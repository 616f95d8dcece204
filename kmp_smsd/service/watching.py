"""A look that is taken again and again, whatever happens to one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from kmp_smsd.service.repeats import Repeats

log = Logger()


class Watch:
    """Takes a `look`, which may return a Deferred, again and again on the clock of `reactor`, once started.

    A look that fails is logged, for the same reason not more than every 10 seconds, and the next one is taken: a role
    that no longer looks seems healthy and does nothing.
    """

    def __init__(self, look: Callable[[], Any], reactor: Any) -> None:
        self._look = look
        self._reactor = reactor
        self._faults = Repeats()
        self._call = LoopingCall(self._guarded)
        self._call.clock = reactor
        self._ended: Deferred[Any] = succeed(None)

    @property
    def running(self) -> bool:
        return self._call.running

    def start(self, every_s: float, *, now: bool = True) -> None:
        """Take the first look `now`, or only after so many seconds."""
        self._ended = self._call.start(every_s, now)

    def stop(self) -> Deferred[Any]:
        """Take no further look, if any was; fires when the one under way has ended."""
        if self._call.running:
            self._call.stop()
        return self._ended

    def _guarded(self) -> Deferred[None]:
        looked: Deferred[None] = maybeDeferred(self._look)
        return looked.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if self._faults.worth_saying(failure.getErrorMessage(), self._reactor.seconds()):
            log.failure("a look failed", failure, event="look_failed")
