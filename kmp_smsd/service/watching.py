"""A look that is taken again and again, whatever happens to one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from kmp_smsd.service.repeats import Repeats

log = Logger()


def watch(look: Callable[[], Any], reactor: Any) -> LoopingCall:
    """A LoopingCall of `look`, which may return a Deferred, on the clock of `reactor`; not yet started.

    A look that fails is logged, for the same reason not more than every 10 seconds, and the next one is taken: a role
    that no longer looks seems healthy and does nothing.
    """
    faults = Repeats()

    def failed(failure: Failure) -> None:
        if faults.worth_saying(failure.getErrorMessage(), reactor.seconds()):
            log.failure("a look failed", failure, event="look_failed")

    def guarded() -> Deferred[None]:
        looked: Deferred[None] = maybeDeferred(look)
        return looked.addErrback(failed)

    call = LoopingCall(guarded)
    call.clock = reactor
    return call
