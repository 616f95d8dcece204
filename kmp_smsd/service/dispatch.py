"""Dispatch: learns of work, and gives each platform with due deliveries a worker thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from kmp_smsd.service.delivering import Deliverer, Ended
from kmp_smsd.service.repeats import Repeats
from kmp_smsd.service.watching import watch
from kmp_smsd.storage import Store, StoreUnavailable
from kmp_smsd.storage.outbox import has_come

WATCH_EVERY_S = 0.1
OPEN_MAX = 64  # connections; the longest idle one gives way
FAILING_MAX = OPEN_MAX // 4  # of them, for platforms whose last try failed: who hangs delays nobody else
IDLE_CLOSE_S = 60.0
STOP_WITHIN_S = 10.0
AFTER_FAULT_S = 60.0


@dataclass(slots=True)
class _Worker:
    deliverer: Deliverer
    running: Deferred[None] | None = None
    not_before: float = 0.0  # monotonic seconds
    hurried_at: int = 0  # Unix milliseconds: the last wish of a person that was heeded
    hurried: bool = False  # since the last run began
    due_at: int | None = 0  # Unix milliseconds; None: nothing is due
    idle_since: float = 0.0  # monotonic seconds


class Dispatcher(Service):
    """Keeps every platform's worker busy while something is due there.

    `store` belongs to the watching thread, which polls for commits of others. The deliverers have their own.
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
        self._store = store
        self._routes = routes
        self._workers = {name: _Worker(deliverer) for name, deliverer in deliverers.items()}
        self._reactor = reactor
        self._monotonic, self._wall = monotonic, wall
        self._watcher = ThreadPool(1, 1, name="watch")
        self._pool = ThreadPool(0, OPEN_MAX, name="deliver")
        self._watch = watch(self._look, reactor)
        self._watched: Deferred[Any] | None = None
        self._data_version: int | None = None
        self._kept = False  # what has a file is not to be forgotten
        self._routed = False  # each app is routed and all of its deliveries have followed
        self._hastened = False  # what waited for a later try when we started is due
        self._moving: Iterator[int] | None = None  # the steps in which they do
        self._stopping = False
        self._faults = Repeats()

    def startService(self) -> None:
        super().startService()
        self._watcher.start()
        self._pool.start()
        self._watched = self._watch.start(WATCH_EVERY_S)

    async def finish(self) -> None:
        """End what is under way: each worker after its present answers, or within 10 seconds by force."""
        self._stopping = True
        if self._watch.running:
            self._watch.stop()
        if self._watched is not None:
            await self._watched  # the look under way
        running = []
        for worker in self._workers.values():
            worker.deliverer.stop()
            if worker.running is not None:
                running.append(worker.running)
        force = self._reactor.callLater(STOP_WITHIN_S, self._abort)
        await gatherResults(running)
        if force.active():
            force.cancel()
        for worker in self._workers.values():
            await deferToThreadPool(self._reactor, self._pool, worker.deliverer.close)
        await deferToThreadPool(self._reactor, self._watcher, self._store.close)
        self._watcher.stop()
        self._pool.stop()

    def _abort(self) -> None:
        for worker in self._workers.values():
            worker.deliverer.abort()

    def _route(self) -> None:
        """In the watching thread: point each app at its platform, then let its deliveries follow, one step a look.

        So nobody else waits for them. After a fault of the store it begins again: what has followed stays.
        """
        if not self._kept:
            self._store.routes.keep(self._workers)
            self._kept = True
        if self._moving is None:
            moving = self._store.routes.set(self._routes)
            if moving:
                self.log.info("routes changed, deliveries follow: {apps}", apps=", ".join(sorted(moving)))
            self._moving = self._move(int(self._wall() * 1000))
        try:
            self._routed = next(self._moving, None) is None
        except BaseException:  # a generator that raised is spent: begin again
            self._moving = None
            raise

    def _move(self, now: int) -> Iterator[int]:
        yield from self._store.routes.move(now)
        if names := self._store.routes.to_forget(self._workers):
            yield from self._store.routes.forget(names, now)
            self.log.info("platforms forgotten: {names}", names=", ".join(names))
        if not self._hastened:  # what waits for a later try may have waited for what was mended before this start
            yield from self._store.outbox.hasten(self._workers, now)
            self._hastened = True

    def _look(self) -> Deferred[Any]:
        """See where something is due, and put workers on it. The next look waits for this one."""
        looked = deferToThreadPool(self._reactor, self._watcher, self._due)
        looked.addCallback(self._assign)
        looked.addErrback(self._not_looked)
        return looked

    def _due(self) -> tuple[dict[str, int | None], dict[str, int]]:
        """In the watching thread: when each platform's next delivery comes due, and whom a person hurries."""
        routing = not self._routed
        if routing:
            self._route()
        version = self._store.data_version()
        changed = routing or version != self._data_version  # which does not count what this store itself wrote
        if changed and self._routed and self._store.routes.to_forget(self._workers):
            self._routed, self._moving = False, None  # begun with the next look
        self._data_version = version
        now = int(self._wall() * 1000)
        due = {
            name: self._store.outbox.next_try(name, now)
            for name, worker in list(self._workers.items())
            if changed or (worker.due_at is not None and has_come(worker.due_at, now))
        }
        return due, self._store.routes.hurried() if changed else {}

    def _assign(self, found: tuple[dict[str, int | None], dict[str, int]]) -> None:
        due, hurried = found
        for name, due_at in due.items():
            self._workers[name].due_at = due_at
        for name, hurried_at in hurried.items():
            worker = self._workers.get(name)
            if worker is not None and hurried_at != worker.hurried_at:  # or less: the clock may have been set back
                worker.hurried_at, worker.hurried, worker.not_before = hurried_at, True, 0.0
        now = int(self._wall() * 1000)
        waiting = sorted(
            (worker for worker in self._workers.values() if self._has_work(worker, now)),
            key=lambda worker: (worker.deliverer.failing, worker.due_at),
        )
        for worker in waiting:
            gave_way = worker.running is not None  # to one before it
            if self._stopping or gave_way or not self._may_open(worker):
                continue
            worker.running, worker.hurried = Deferred(), False
            run = deferToThreadPool(self._reactor, self._pool, worker.deliverer.run)
            run.addCallbacks(self._ran, self._broke, callbackArgs=(worker,), errbackArgs=(worker,))
        self._close_idle()

    def _has_work(self, worker: _Worker, now: int) -> bool:
        """Whether something is due there at `now` (Unix milliseconds), and nobody waits or works already."""
        if worker.running is not None or worker.due_at is None or not has_come(worker.due_at, now):
            return False
        return worker.not_before <= self._monotonic()

    def _may_open(self, worker: _Worker) -> bool:
        """Whether a thread and a connection are free for `worker`."""
        busy = [other for other in self._workers.values() if other.running is not None]
        if worker.deliverer.failing and sum(other.deliverer.failing for other in busy) >= FAILING_MAX:
            return False
        if worker.deliverer.is_open:
            return True
        idle = [one for one in self._workers.values() if one.running is None and one.deliverer.is_open]
        if len(busy) + len(idle) < OPEN_MAX:
            return True
        if not idle:
            return False
        self._close(min(idle, key=lambda one: one.idle_since))
        return True

    def _close_idle(self) -> None:
        for worker in self._workers.values():
            idle = worker.running is None and worker.deliverer.is_open
            if idle and self._monotonic() - worker.idle_since >= IDLE_CLOSE_S:
                self._close(worker)

    def _close(self, worker: _Worker) -> None:
        """Close a connection in a thread, since even that may block."""
        worker.running = Deferred()
        closed = deferToThreadPool(self._reactor, self._pool, worker.deliverer.close_channel)
        closed.addCallbacks(lambda _: self._free(worker), self._broke, errbackArgs=(worker,))

    def _ran(self, ended: Ended, worker: _Worker) -> None:
        worker.not_before = 0.0 if worker.hurried else self._monotonic() + ended.wait_ms / 1000
        worker.due_at = 0  # look again: more may have come due meanwhile
        self._free(worker)

    def _broke(self, failure: Failure, worker: _Worker) -> None:
        self.log.failure("platform {platform}: delivery broke off", failure, platform=worker.deliverer.platform)
        worker.not_before = self._monotonic() + AFTER_FAULT_S
        worker.due_at = 0
        self._free(worker)

    def _free(self, worker: _Worker) -> None:
        running, worker.running = worker.running, None
        worker.idle_since = self._monotonic()
        assert running is not None
        running.callback(None)

    def _not_looked(self, failure: Failure) -> None:
        self._data_version = None
        if not self._faults.worth_saying(failure.getErrorMessage(), self._monotonic()):
            return
        if failure.check(StoreUnavailable):
            self.log.error("store unavailable: {reason}", reason=failure.getErrorMessage())
        else:
            self.log.failure("due deliveries could not be looked up", failure)
