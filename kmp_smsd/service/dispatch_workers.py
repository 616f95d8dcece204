"""The workers of dispatch: which platform has a thread and a connection, and how each is held, drained and replaced."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from kmp_smsd.service.delivering import Counts, Deliverer, Ended
from kmp_smsd.service.status import PlatformWord
from kmp_smsd.storage.outbox import has_come
from kmp_smsd.storage.routes import PlatformState

OPEN_MAX = 64  # connections; the longest idle one gives way
FAILING_MAX = OPEN_MAX // 4  # of them, for platforms whose last try failed: who hangs delays nobody else
IDLE_CLOSE_S = 60.0
STOP_WITHIN_S = 10.0
AFTER_FAULT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """How one platform is served. Times in Unix seconds."""

    name: str
    word: PlatformWord
    paused: bool
    since: float
    counts: Counts
    state: PlatformState | None
    next_try_at: float | None


@dataclass(slots=True, eq=False)
class _Worker:
    deliverer: Deliverer
    paused: bool = False
    word: PlatformWord = PlatformWord.IDLE
    since: float = 0.0  # Unix seconds
    running: Deferred[None] | None = None
    not_before: float = 0.0  # monotonic seconds
    hurried_at: int = 0  # Unix milliseconds: the last wish of a person that was heeded
    hurried: bool = False  # since the last run began
    due_at: int | None = 0  # Unix milliseconds; None: nothing is due
    idle_since: float = 0.0  # monotonic seconds


class Workers:
    """Steers one worker for each platform; a worker that runs has a thread, and a connection of its own.

    All in the reactor's thread, but for `names` and `awaited`, which the watching thread may call too.
    """

    log = Logger()

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
        # Never changed, since the watching thread reads it; replaced instead.
        self._workers: Mapping[str, _Worker] = {name: self._worker(one) for name, one in deliverers.items()}
        self._leaving: dict[_Worker, Deferred[Any]] = {}
        self._draining = False
        self._stopping = False
        self._pool = ThreadPool(0, OPEN_MAX, name="deliver")

    def start(self) -> None:
        """Have threads for them; none begins before `assign`."""
        self._pool.start()

    def begin_none(self) -> None:
        """From now on no worker begins."""
        self._stopping = True

    async def finish(self) -> None:
        """End what is under way, after `begin_none`: each worker after its present answers, or by force in 10 s."""
        running: list[Deferred[Any]] = list(self._leaving.values())
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
                ended.append(self._replace(before, worker))
            workers[name] = worker
        self._workers = workers
        return gatherResults(ended)

    def look_at_words(self) -> None:
        """Note how each platform is served; called about once a second, which is how exact `since` is."""
        for worker in self._workers.values():
            word = self._word(worker)
            if word is not worker.word:
                worker.word, worker.since = word, self._wall()

    def served(self) -> list[Served]:
        """How each platform is served."""
        self.look_at_words()
        return [
            Served(
                name=name,
                word=worker.word,
                paused=worker.paused,
                since=worker.since,
                counts=worker.deliverer.counts,
                state=worker.deliverer.state,
                next_try_at=self._next_try_at(worker),
            )
            for name, worker in self._workers.items()
        ]

    def names(self) -> Collection[str]:
        """The platforms that are served."""
        return self._workers.keys()

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
            worker = self._workers.get(name)
            if worker is not None and hurried_at != worker.hurried_at:  # or less: the clock may have been set back
                worker.hurried_at, worker.hurried, worker.not_before = hurried_at, True, 0.0
        self._begin()
        self._close_idle()

    def _begin(self) -> None:
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

    def pause(self, name: str) -> None:
        """Deliver nothing to a platform until `resume`; what has been sent is still answered. Raises KeyError."""
        worker = self._workers[name]
        worker.paused = True
        self._hold(worker)

    def resume(self, name: str) -> None:
        """Deliver to a platform again. Raises KeyError."""
        worker = self._workers[name]
        worker.paused = False
        self._go_on(worker)

    def drain(self) -> Deferred[Any]:
        """Deliver nothing at all until `go_on`. Fires when what had been sent is answered, or given up."""
        self._draining = True
        leaving = list(self._leaving.values())
        return gatherResults([self._hold(worker) for worker in self._workers.values()] + leaving)

    def go_on(self) -> None:
        """Deliver again after `drain`."""
        self._draining = False
        for worker in self._workers.values():
            self._go_on(worker)

    def _word(self, worker: _Worker) -> PlatformWord:
        if worker.paused:
            return PlatformWord.PAUSED
        if self._draining or self._stopping:
            return PlatformWord.DRAINING
        state = worker.deliverer.state
        if state is not None and state.paused:
            return PlatformWord.HELD_BACK
        if worker.running is not None:
            return PlatformWord.DELIVERING
        return PlatformWord.IDLE if worker.due_at is None else PlatformWord.WAITING

    def _next_try_at(self, worker: _Worker) -> float | None:
        """Unix seconds; None where nothing is due, or somebody works already, or must not."""
        if worker.due_at is None or worker.running is not None or self._held(worker):
            return None
        return max(worker.due_at / 1000, self._wall() + max(0.0, worker.not_before - self._monotonic()))

    def _worker(self, deliverer: Deliverer) -> _Worker:
        return _Worker(deliverer, since=self._wall())

    def _held(self, worker: _Worker) -> bool:
        return worker.paused or self._draining

    def _hold(self, worker: _Worker) -> Deferred[Any]:
        """Stop a worker that goes on later, and close its connection; fires when it stands still."""
        worker.deliverer.stop()

        def close(result: Any) -> Any:
            if self._held(worker) and worker.running is None and worker.deliverer.is_open:
                self._close(worker)
            return result

        return self._standstill(worker).addCallback(close)

    def _go_on(self, worker: _Worker) -> None:
        def again(_: Any) -> None:
            if not self._held(worker):
                worker.deliverer.again()

        worker.not_before = 0.0
        self._when_free(worker).addCallback(again)

    def _replace(self, before: _Worker, worker: _Worker) -> Deferred[Any]:
        """Have `worker` begin when the one before it has ended: two would deliver the same."""
        worker.paused = before.paused
        worker.deliverer.counts = before.deliverer.counts
        worker.running = Deferred()

        def begin(result: Any) -> Any:
            self._free(worker)
            return result

        return self._retire(before).addBoth(begin)

    def _retire(self, worker: _Worker) -> Deferred[Any]:
        """Stop a worker for good; fires when it has closed everything."""

        def forget(result: Any) -> Any:
            del self._leaving[worker]
            return result

        worker.deliverer.stop()
        gone = self._standstill(worker)
        gone.addCallback(lambda _: deferToThreadPool(self._reactor, self._pool, worker.deliverer.close))
        self._leaving[worker] = gone
        return gone.addBoth(forget)

    def _standstill(self, worker: _Worker) -> Deferred[Any]:
        """Fires when the worker, which was told to stop, does nothing any more; by force in the end."""
        force = self._reactor.callLater(STOP_WITHIN_S, worker.deliverer.abort)

        def stands(result: Any) -> Any:
            if force.active():
                force.cancel()
            return result

        return self._when_free(worker).addBoth(stands)

    def _when_free(self, worker: _Worker) -> Deferred[Any]:
        """Fires when the worker's present run, if any, has ended; each who waits has a Deferred of his own."""
        free: Deferred[Any] = Deferred()
        if worker.running is None:
            free.callback(None)
        else:

            def freed(result: Any) -> Any:
                free.callback(None)
                return result

            worker.running.addBoth(freed)
        return free

    def _has_work(self, worker: _Worker, now: int) -> bool:
        """Whether something is due there at `now` (Unix milliseconds), and nobody waits or works already."""
        if self._held(worker) or worker.running is not None:
            return False
        if worker.due_at is None or not has_come(worker.due_at, now):
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
        self.log.failure(
            "platform {platform}: delivery broke off",
            failure,
            event="delivery_broke_off",
            platform=worker.deliverer.platform,
        )
        worker.not_before = self._monotonic() + AFTER_FAULT_S
        worker.due_at = 0
        self._free(worker)

    def _free(self, worker: _Worker) -> None:
        running, worker.running = worker.running, None
        worker.idle_since = self._monotonic()
        assert running is not None
        running.callback(None)
