"""The inbox in a thread of its own: added to, tried now and then, and cleared of what is settled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from kmp_smsd.service.busy import Busy
from kmp_smsd.service.faults import Faults
from kmp_smsd.service.thread import WorkThread
from kmp_smsd.storage import StoreUnavailable
from kmp_smsd.storage.inbox import Inbox
from kmp_smsd.storage.received import Message, Received

FORGET_EVERY_S = 1.0
PROBE_AFTER_S = 10.0  # without a message


class InboxThread:
    """Has the thread do everything with `inbox`, so that a disk that is stuck never stops the reactor.

    An inbox that nobody added to lately is written to a little, so that a full or broken disk is noticed before a
    message comes.
    """

    log = Logger()

    def __init__(self, inbox: Inbox, reactor: Any, *, monotonic: Callable[[], float]) -> None:
        self._inbox = inbox
        self._monotonic = monotonic
        self._thread = WorkThread("inbox", reactor, monotonic=monotonic)
        self._forget_at = self._probe_at = monotonic()
        self._faults = Faults(self.log, monotonic)
        self._write_error: str | None = None
        self._forget_error: str | None = None

    @property
    def busy(self) -> Busy:
        """How the thread gets on."""
        return self._thread.busy

    @property
    def error(self) -> str | None:
        """What was wrong with the last write, or the last removal of what is settled; None where all is well."""
        return self._write_error or self._forget_error

    def start(self) -> list[Received]:
        """Begin to work; what was left to be settled when the inbox was opened."""
        self._thread.start()
        return self._inbox.take_left()

    def append(self, messages: Sequence[Message]) -> Deferred[Received]:
        """Bring messages to the disk; fires when they are there, or fails where they may not be."""
        self._probe_at = self._monotonic() + PROBE_AFTER_S
        return self._thread.run(self._inbox.append, messages).addCallbacks(self._written, self._not_written)

    def look(self, settled: int) -> None:
        """Remove what is settled, so many messages since the start; try whether the disk takes something.

        To be called often.
        """
        now = self._monotonic()
        if self.busy.stuck_s > FORGET_EVERY_S:
            return  # else more and more of this would wait, in front of messages
        if now >= self._probe_at:
            self.append(()).addCallbacks(lambda _: None, self._failed)
        if now >= self._forget_at:
            self._forget_at = now + FORGET_EVERY_S
            self._thread.run(self._inbox.forget, settled).addCallbacks(self._forgot, self._not_forgotten)

    def late(self) -> None:
        """Messages were left with their SMSC, since they were not on the disk in time."""
        self._write_error = "it is slow, and messages were left with their SMSC"

    async def finish(self, settled: int) -> None:
        """Remove what is settled, and close the inbox."""
        try:
            await self._thread.run(self._close, settled)
        finally:
            self._thread.stop()

    def _close(self, settled: int) -> None:
        with closing(self._inbox), suppress(StoreUnavailable):  # the next start knows by the numbers what is settled
            self._inbox.forget(settled)

    def _written(self, received: Received) -> Received:
        self._write_error = None
        return received

    def _not_written(self, failure: Failure) -> Failure:
        self._write_error = failure.getErrorMessage()
        return failure

    def _forgot(self, _: None) -> None:
        self._forget_error = None

    def _not_forgotten(self, failure: Failure) -> None:
        self._forget_error = failure.getErrorMessage()
        self._failed(failure)

    def _failed(self, failure: Failure) -> None:
        if self._faults.left_to_tell(failure):
            self.log.failure("the inbox could not be tried or cleared", failure, event="inbox_failed")
