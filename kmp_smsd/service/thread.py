"""A thread that does what it is given, in order, and how it gets on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from kmp_smsd.service.busy import Busy
from kmp_smsd.storage.lock_waits import Waits


class WorkThread:
    """One thread of this name. `lock_wait` is how its jobs wait for the write lock, where they do."""

    def __init__(
        self, name: str, reactor: Any, *, monotonic: Callable[[], float], lock_wait: Waits | None = None
    ) -> None:
        self._reactor = reactor
        self.pool = ThreadPool(1, 1, name=name)
        self.busy = Busy(monotonic, lock_wait)

    def start(self) -> None:
        self.pool.start()

    def stop(self) -> None:
        """End it, once it has done what it was given."""
        self.pool.stop()

    def run(self, call: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Have it do something after all that it was given before; fires with what comes of it."""
        self.busy.begun()
        return deferToThreadPool(self._reactor, self.pool, call, *args).addBoth(self.busy.ended)
