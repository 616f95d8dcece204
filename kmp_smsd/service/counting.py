"""Counting what is due at each platform, for people and monitoring, beside the deliveries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import inlineCallbacks
from twisted.logger import Logger

from kmp_smsd.service.busy import Busy
from kmp_smsd.service.repeats import Repeats
from kmp_smsd.service.store_watch import StoreWatch
from kmp_smsd.service.thread import WorkThread
from kmp_smsd.service.watching import Watch
from kmp_smsd.storage import Store, StoreUnavailable
from kmp_smsd.storage.figures import DueFigures, RejectedFigures
from kmp_smsd.storage.platforms import PlatformState

COUNT_EVERY_S = 5.0
REST = 20  # times what the last count took: counting never takes more than a twentieth of a core


@dataclass(frozen=True, slots=True)
class Unserved:
    """A platform without an enabled file, where something is due or was rejected.

    `since` when that is known, in Unix seconds.
    """

    apps: tuple[str, ...]
    state: PlatformState
    since: float


class Counting(Service):
    """Counts in a thread and with a `store` of its own; `names` gives the platforms that are served.

    On a cold disk one count may take minutes: the figures grow old meanwhile, and that is all. Dispatch is judged by
    `dispatching`, which follows its own thread: that looks for work all the time.
    """

    log = Logger()

    def __init__(
        self,
        store: Store,
        names: Callable[[], Collection[str]],
        dispatching: Busy,
        reactor: Any,
        *,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._store = store
        self._names = names
        self._monotonic, self._wall = monotonic, wall
        self._thread = WorkThread("count", reactor, monotonic=monotonic)
        self._watch = Watch(self._look, reactor)
        self._not_before = float("-inf")  # monotonic seconds
        self._faults = Repeats()
        self.store_watch = StoreWatch(
            store, self._thread.run, dispatching, writes=False, monotonic=monotonic, wall=wall
        )
        self.due: Mapping[str, DueFigures] = {}
        self.rejected: Mapping[str, RejectedFigures] = {}
        self.unserved: Mapping[str, Unserved] = {}  # by name, which is empty where no file names the app

    def startService(self) -> None:
        super().startService()
        self._thread.start()
        self._watch.start(COUNT_EVERY_S)

    async def finish(self) -> None:
        """End after the present count."""
        await self._watch.stop()
        await self._thread.run(self._store.close)
        self._thread.stop()

    @inlineCallbacks
    def _look(self) -> Any:
        try:
            yield self.store_watch.measure()
            if self._monotonic() >= self._not_before and self.store_watch.error is None:
                yield self._count()
        except StoreUnavailable as error:
            if self._faults.worth_saying(str(error), self._monotonic()):
                self.log.error(
                    "nothing is counted, store unavailable: {reason}", event="store_unavailable", reason=str(error)
                )

    @inlineCallbacks
    def _count(self) -> Any:
        """Count platform by platform; between them the store is measured, so that its figures do not wait for all."""
        begun_at = self._monotonic()
        due: dict[str, DueFigures] = {}
        rejected: dict[str, RejectedFigures] = {}
        served = list(self._names())
        others = yield self._thread.run(self._store.platforms.unserved, served)
        for name in (*served, *others):
            due[name] = yield self._thread.run(self._store.figures.due, name)
            rejected[name] = yield self._thread.run(self._store.figures.rejected, name)
            yield self.store_watch.measure()
            if not self._watch.running:
                return
        unserved = yield self._thread.run(lambda: {name: self._look_at(name) for name in others})
        # Together: where something is due, it is never told as 0.
        self.due, self.rejected, self.unserved = due, rejected, unserved
        ended_at = self._monotonic()
        self._not_before = ended_at + REST * (ended_at - begun_at)

    def _look_at(self, name: str) -> Unserved:
        """In the counting thread."""
        known = self.unserved.get(name)
        platforms = self._store.platforms
        return Unserved(platforms.apps(name), platforms.state(name), known.since if known else self._wall())
