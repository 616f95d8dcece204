"""Dispatch: learns of work, and points each app at its platform; `workers` does the work."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from kmp_smsd.service.believed_clock import SET_BACK_S
from kmp_smsd.service.delivering import Deliverer
from kmp_smsd.service.dispatch_workers import Workers
from kmp_smsd.service.faults import Faults
from kmp_smsd.service.thread import WorkThread
from kmp_smsd.service.watching import Watch
from kmp_smsd.storage import Store

WATCH_EVERY_S = 0.1
MOVES_A_LOOK = 10  # steps in which deliveries follow their apps; then it is seen whether something else is due


class Dispatcher(Service):
    """Keeps every platform's worker busy while something is due there.

    `store` belongs to the watching `thread`, which polls for commits of others. The deliverers have their own.
    """

    log = Logger()

    def __init__(
        self,
        store: Store,
        routes: Mapping[str, str],
        deliverers: Mapping[str, Deliverer],
        reactor: Any,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.workers = Workers(deliverers, reactor, monotonic=monotonic, wall=wall)
        self._store = store
        self._routes = routes
        self._monotonic, self._wall = monotonic, wall
        self.thread = WorkThread("watch", reactor, monotonic=monotonic, lock_wait=store.lock_wait)
        self._watch = Watch(self._look, reactor)
        self._data_version: int | None = None
        self._kept = False  # what has a file is not to be forgotten
        self._routed = False  # each app is routed and all of its deliveries have followed
        self._to_hasten: Collection[str] = set(deliverers)  # platforms: what waited for a later try is to be due
        self._moving: Iterator[int] | None = None  # the steps in which they do
        self._ahead_s = wall() - monotonic()  # of the wall clock
        self._faults = Faults(self.log, monotonic)

    def startService(self) -> None:
        super().startService()
        self.thread.start()
        self.workers.start()
        self._watch.start(WATCH_EVERY_S)

    async def finish(self) -> None:
        """End what is under way: the look, then each worker after its present answers, or in the end by force."""
        self.workers.begin_none()
        await self._watch.stop()  # the look under way
        await self.workers.finish()
        await self.thread.run(self._store.close)
        self.thread.stop()

    def reconfigure(
        self, routes: Mapping[str, str], fresh: Mapping[str, Deliverer], gone: Collection[str]
    ) -> Deferred[Any]:
        """Have the platforms of `fresh` served anew, and those that are `gone` no more; set the routes anew.

        What waits for a later try at those of `fresh` is tried at once. Fires when the old workers have ended.
        """
        ended = self.workers.reconfigure(fresh, gone)
        self.thread.run(self._reroute, routes, set(fresh)).addErrback(self._not_looked)
        return ended

    def _reroute(self, routes: Mapping[str, str], fresh: Collection[str]) -> None:
        """In the watching thread: begin with the routes as at the start, and hasten what waits at platforms of `fresh`.

        Those that are hastened already are hastened to their end.
        """
        self._routes = routes
        self._to_hasten = {*self._to_hasten, *fresh}
        self._kept = self._routed = False
        self._moving = None

    def _route(self) -> None:
        """In the watching thread: point each app at its platform, then let its deliveries follow, a few steps a look.

        So nobody else waits for them. After a fault of the store it begins again: what has followed stays.
        """
        if not self._kept:
            self._store.platforms.keep(self.workers.names())
            self._kept = True
        if self._moving is None:
            moving = self._store.routes.set(self._routes)
            if moving:
                self.log.info(
                    "routes changed, deliveries follow: {apps}", event="routes_changed", apps=", ".join(sorted(moving))
                )
            self._moving = self._move(int(self._wall() * 1000))
        try:
            self._routed = len(list(islice(self._moving, MOVES_A_LOOK))) < MOVES_A_LOOK
        except BaseException:  # a generator that raised is spent: begin again
            self._moving = None
            raise

    def _move(self, now: int) -> Iterator[int]:
        yield from self._store.routes.move(now)
        if names := self._store.platforms.to_forget(self.workers.present()):
            yield from self._store.routes.forget(names, now)
            self.log.info("platforms forgotten: {platforms}", event="platforms_forgotten", platforms=", ".join(names))
        if self._to_hasten:  # what waits for a later try may have waited for what this start or this file mended
            yield from self._store.renewing.hasten(
                [name for name in self.workers.names() if name in self._to_hasten], now
            )
            self._to_hasten = ()

    def _look(self) -> Deferred[Any]:
        """See where something is due, and put workers on it. The next look waits for this one."""
        looked = self.thread.run(self._due)
        looked.addCallback(lambda found: self.workers.assign(*found))
        looked.addErrback(self._not_looked)
        return looked

    def _due(self) -> tuple[dict[str, int | None], dict[str, int]]:
        """In the watching thread: when each platform's next delivery comes due, and whom a person hurries."""
        self._look_at_clock()
        routing = not self._routed
        if routing:
            self._route()
        version = self._store.data_version()
        changed = routing or version != self._data_version  # which does not count what this store itself wrote
        if self._routed and self._store.platforms.to_forget(self.workers.present()):
            self._routed, self._moving = False, None  # begun with the next look
        self._data_version = version
        now = int(self._wall() * 1000)
        due = {
            name: self._store.outbox.next_try(name, now)
            for name in (self.workers.names() if changed else self.workers.awaited(now))
        }
        return due, self._store.platforms.hurried() if changed else {}

    def _look_at_clock(self) -> None:
        """In the watching thread: where the wall clock was set back, what waits for its later time does so no more."""
        before_s, self._ahead_s = self._ahead_s, self._wall() - self._monotonic()
        if self._ahead_s < before_s - SET_BACK_S:
            self.log.warn(
                "the clock was set back by {seconds} s: whatever waits is tried now",
                event="clock_set_back",
                seconds=round(before_s - self._ahead_s),
            )
            self._reroute(self._routes, self.workers.names())

    def _not_looked(self, failure: Failure) -> None:
        self._data_version = None
        if self._faults.left_to_tell(failure):
            self.log.failure("due deliveries could not be looked up", failure, event="due_not_looked_up")
