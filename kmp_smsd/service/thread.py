"""A thread that does what it is given, in order, and how it gets on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from kmp_smsd.service.busy import Busy
from kmp_smsd.storage.lock_waits import Waits

log = logging.getLogger(__name__)


_Told = Callable[[bool, Any], object]
"""Is told in the thread whether a job succeeded, and its result, or the failure."""


class OneThread:
    """What Twisted's ThreadPool is with one thread, as far as `deferToThreadPool` needs it.

    Twisted's takes a tenth of a message's time where each message waits for a thread: it decides with every job whether
    a thread is to come or to go.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[tuple[_Told, Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=name)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End it, once it has done what it was given."""
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def callInThreadWithCallback(self, told: _Told, call: Callable[..., Any], *args: Any) -> None:
        self._jobs.put((told, call, args))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                _do(*job)
            except Exception:  # nobody may be told any more; the jobs behind it are to be done all the same
                log.exception(
                    "%s: what came of a job could not be told", self._thread.name, extra={"event": "job_untold"}
                )
            del job  # else a batch would stay in memory until the next one


def _do(told: _Told, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        result = call(*args)
    except BaseException:  # whatever it is, somebody waits for it
        told(False, Failure())
    else:
        told(True, result)


class WorkThread:
    """One thread of this name. `lock_wait` is how its jobs wait for the write lock, where they do."""

    def __init__(
        self, name: str, reactor: Any, *, monotonic: Callable[[], float], lock_wait: Waits | None = None
    ) -> None:
        self._reactor = reactor
        self.thread = OneThread(name)
        self.busy = Busy(monotonic, lock_wait)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """End it, once it has done what it was given."""
        self.thread.stop()

    def run(self, call: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Have it do something after all that it was given before; fires with what comes of it."""
        self.busy.begun()
        return self.run_aside(call, *args).addBoth(self.busy.ended)

    def run_aside(self, call: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """The same, but `busy` does not follow it."""
        # A pool, for Twisted, is whatever has `callInThreadWithCallback`.
        return deferToThreadPool(self._reactor, cast(ThreadPool, self.thread), call, *args)
