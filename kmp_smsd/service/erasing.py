"""Erasing: blanks whom all platforms have let go, beside the deliveries and not between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from kmp_smsd.service.faults import Faults
from kmp_smsd.service.thread import WorkThread
from kmp_smsd.service.watching import Watch
from kmp_smsd.storage import Store

LOOK_EVERY_S = 1.0
SCAN_EVERY_S = 60.0  # all of the file is read: ten gigabytes take many seconds


class Eraser(Service):
    """Looks every second, in a thread and with a `store` of its own, so that no delivery waits for it or fails with it.

    `monotonic` is the clock (seconds) by which the same fault is said once in 10 seconds.
    """

    log = Logger()

    def __init__(self, store: Store, reactor: Any, *, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._thread = WorkThread("erase", reactor, monotonic=monotonic)
        self._watch = Watch(self._look, reactor)
        self._stopping = False
        self._faults = Faults(self.log, monotonic)

    def startService(self) -> None:
        super().startService()
        self._thread.start()
        self._watch.start(LOOK_EVERY_S)

    async def finish(self) -> None:
        """End after the present step; what is left is found by the next start."""
        self._stopping = True
        await self._watch.stop()  # the look under way
        await self._thread.run(self._store.close)
        self._thread.stop()

    def _look(self) -> Deferred[Any]:
        return self._thread.run(self._erase).addErrback(self._not_erased)

    def _erase(self) -> None:
        self._store.finish_erasing(scan_every_s=SCAN_EVERY_S, stopping=lambda: self._stopping)

    def _not_erased(self, failure: Failure) -> None:
        if self._faults.left_to_tell(failure, "nothing is erased, store unavailable: {reason}"):
            self.log.failure("nothing is erased", failure, event="erasing_failed")
