"""The workers of dispatch: which of them have a thread and a connection, of which there are 64."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from kmp_smsd.service.delivering import Deliverer
from kmp_smsd.service.dispatch_worker import STOP_WITHIN_S, Served, Worker
from kmp_smsd.storage.due import has_come

OPEN_MAX = 64  # connections; the longest idle one gives way
FAILING_MAX = OPEN_MAX // 4  # of them, for platforms whose last try failed: who hangs delays nobody else
IDLE_CLOSE_S = 60.0


class Workers:
    """One worker for each platform; a worker that runs has a thread, and a connection of its own.

    All in the reactor's thread, but for `names`, `present` and `awaited`, which the watching thread may call too.
    """

    def __init__(
        self,
        deliverers: Mapping[str, Deliverer],
        reactor: Any,
        *,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._monotonic, self._wall = monotonic, wall
        self._pool = ThreadPool(0, OPEN_MAX, name="deliver")
        self._draining = False
        self._stopping = False
        # Never changed, since the watching thread reads them; replaced instead.
        self._leaving: Mapping[Worker, Deferred[Any]] = {}
        self._workers: Mapping[str, Worker] = {name: self._worker(one) for name, one in deliverers.items()}

    def start(self) -> None:
        """Have threads for them; none begins before `assign`."""
        self._pool.start()

    def begin_none(self) -> None:
        """From now on no worker begins."""
        self._stopping = True
        self._set_draining(True)

    async def finish(self) -> None:
        """End what is under way, after `begin_none`: each worker after its present answers, or by force in 10 s."""
        running: list[Deferred[Any]] = list(self._leaving.values())
        for worker in self._workers.values():
            worker.deliverer.stop()
            running.append(worker.ended())
        force = self._reactor.callLater(STOP_WITHIN_S, self._abort)
        await gatherResults(running)
        if force.active():
            force.cancel()
        for worker in self._workers.values():
            await worker.close()
        self._pool.stop()

    def _abort(self) -> None:
        for worker in (*self._workers.values(), *self._leaving):
            worker.deliverer.abort()

    def reconfigure(self, fresh: Mapping[str, Deliverer], gone: Collection[str]) -> Deferred[Any]:
        """Serve the platforms of `fresh` by new deliverers, and those that are `gone` no more.

        The others go on. Fires when the old workers have ended: each after its present answers, or within 10 seconds by
        force.
        """
        workers = dict(self._workers)
        ended = [self._retire(workers.pop(name)) for name in gone]
        for name, deliverer in fresh.items():
            worker = self._worker(deliverer)
            if (before := workers.get(name)) is not None:
                ended.append(worker.follow(before, self._retire(before)))
            workers[name] = worker
        self._workers = workers
        return gatherResults(ended)

    def served(self) -> list[Served]:
        """How each platform is served; to be asked about once a second, which is how exact `since` is."""
        return [worker.served() for worker in self._workers.values()]

    def names(self) -> Collection[str]:
        """The platforms that are served."""
        return self._workers.keys()

    def present(self) -> Collection[str]:
        """These, and those that are being left: what they still answer is settled."""
        return {*self._workers, *(worker.deliverer.platform for worker in self._leaving)}

    def awaited(self, now: int) -> list[str]:
        """The platforms where at `now` (Unix milliseconds) something is due, as far as is known, or has become so."""
        return [
            name for name, worker in self._workers.items() if worker.due_at is not None and has_come(worker.due_at, now)
        ]

    def assign(self, due: Mapping[str, int | None], hurried: Mapping[str, int]) -> None:
        """Begin where something is due; `due` and `hurried` say when, in Unix milliseconds, of platforms looked at."""
        for name, due_at in due.items():
            if (served := self._workers.get(name)) is not None:  # else a reload came between
                served.due_at = due_at
        for name, hurried_at in hurried.items():
            if (served := self._workers.get(name)) is not None:
                served.hurry(hurried_at)
        self._begin()
        self._close_idle()

    def pause(self, name: str) -> None:
        """Deliver nothing to a platform until `resume`; what has been sent is still answered. Raises KeyError."""
        worker = self._workers[name]
        worker.paused = True
        worker.hold()

    def resume(self, name: str) -> None:
        """Deliver to a platform again. Raises KeyError."""
        worker = self._workers[name]
        worker.paused = False
        worker.go_on()

    def drain(self) -> Deferred[Any]:
        """Deliver nothing at all until `go_on`. Fires when what had been sent is answered, or given up."""
        self._set_draining(True)
        leaving = list(self._leaving.values())
        return gatherResults([worker.hold() for worker in self._workers.values()] + leaving)

    def go_on(self) -> None:
        """Deliver again after `drain`, unless all is ending."""
        if self._stopping:
            return
        self._set_draining(False)
        for worker in self._workers.values():
            worker.go_on()

    def _set_draining(self, draining: bool) -> None:
        self._draining = draining
        for worker in self._workers.values():
            worker.draining = draining

    def _worker(self, deliverer: Deliverer) -> Worker:
        return Worker(
            deliverer,
            partial(deferToThreadPool, self._reactor, self._pool),
            self._reactor,
            monotonic=self._monotonic,
            wall=self._wall,
            draining=self._draining,
        )

    def _retire(self, worker: Worker) -> Deferred[Any]:
        """Stop a worker for good; fires when it has closed everything."""

        def forget(result: Any) -> Any:
            self._leaving = {one: left for one, left in self._leaving.items() if one is not worker}
            return result

        gone = worker.retire()
        self._leaving = {**self._leaving, worker: gone}
        return gone.addBoth(forget)

    def _begin(self) -> None:
        now = int(self._wall() * 1000)
        waiting = sorted(
            (worker for worker in self._workers.values() if worker.has_work(now)),
            key=lambda worker: worker.idle_since,  # whose turn was longest ago
        )
        for worker in waiting:
            gave_way = worker.busy  # to one before it
            if not gave_way and self._may_open(worker):
                worker.begin()

    def _may_open(self, worker: Worker) -> bool:
        """Whether a thread and a connection are free for `worker`."""
        busy = [other for other in self._workers.values() if other.busy]
        if worker.deliverer.failing and sum(other.deliverer.failing for other in busy) >= FAILING_MAX:
            return False
        if worker.deliverer.is_open:
            return True
        idle = [other for other in self._workers.values() if other.idle]
        if len(busy) + len(idle) < OPEN_MAX:
            return True
        if not idle:
            return False
        min(idle, key=lambda one: one.idle_since).close_connection()
        return True

    def _close_idle(self) -> None:
        for worker in self._workers.values():
            if worker.idle and self._monotonic() - worker.idle_since >= IDLE_CLOSE_S:
                worker.close_connection()
