"""Housekeeping: what nobody needs any more goes, in small steps between the batches of intake."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from kmp_smsd.service.watching import watch
from kmp_smsd.storage import Store, StoreUnavailable

STEP_EVERY_S = 30.0
DAY_MS = 86_400_000
REQUESTS_KEPT_MS = 30 * DAY_MS  # of the business system, which may ask again
ANSWERS_KEPT_MS = DAY_MS  # to a gateway that did not wait for them


class Housekeeping:
    """Takes its steps in the thread of `store`; batches pass between them."""

    log = Logger()

    def __init__(
        self,
        store: Store,
        pool: ThreadPool,
        reactor: Any,
        *,
        remember_days: int,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._pool = pool
        self._reactor = reactor
        self.remember(remember_days)
        self._wall = wall
        self._watch = watch(self._tidy, reactor)

    def start(self) -> None:
        self._watch.start(STEP_EVERY_S, now=False)

    def remember(self, days: int) -> None:
        """Remember for so many days from now on."""
        self._remember_ms = days * DAY_MS

    def stop(self) -> None:
        """Take no further step; the one under way goes on."""
        if self._watch.running:
            self._watch.stop()

    @inlineCallbacks
    def _tidy(self) -> Any:
        for step, kept_ms in (
            (self._store.waiting.expire, self._remember_ms),
            (self._store.requests.expire, REQUESTS_KEPT_MS),
            (self._store.submissions.expire, ANSWERS_KEPT_MS),
            (self._store.erasing.sweep, self._remember_ms),
        ):
            if not self._watch.running:
                return
            before = int(self._wall() * 1000) - kept_ms
            done: Deferred[int] = deferToThreadPool(self._reactor, self._pool, step, before)
            try:
                yield done
            except StoreUnavailable as error:  # the next step finds the same
                self.log.error("store unavailable: {reason}", event="store_unavailable", reason=str(error))
                return
