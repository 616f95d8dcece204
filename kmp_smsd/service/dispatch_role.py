"""The role dispatch: the dispatcher and what runs beside it, what a reload makes of the platforms, how they are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred, gatherResults, succeed

from kmp_smsd.config.load import Config
from kmp_smsd.config.platform import Platform
from kmp_smsd.domain.shown import NO_PLATFORM
from kmp_smsd.service.counting import Counting
from kmp_smsd.service.delivering import Deliverer
from kmp_smsd.service.dispatch import Dispatcher
from kmp_smsd.service.dispatch_worker import Served
from kmp_smsd.service.erasing import Eraser
from kmp_smsd.service.judging import Counts
from kmp_smsd.service.log_levels import LogLevels
from kmp_smsd.service.rates import WINDOWS_S, RatesByName
from kmp_smsd.service.role import Prepared, Role, RoleService, UnknownName
from kmp_smsd.service.status import ConfigurationStatus, PlatformStatus, PlatformWord, Snapshot, ms
from kmp_smsd.storage.figures import DueFigures, RejectedFigures


class DispatchRole(RoleService):
    """Stops when all workers have. `make_deliverer` makes that of one file of platforms.d."""

    role = Role.DISPATCH

    def __init__(
        self,
        config: Config,
        dispatcher: Dispatcher,
        eraser: Eraser,
        counting: Counting,
        make_deliverer: Callable[[str, Platform], Deliverer],
        reactor: Any,
        **clocks: Any,
    ) -> None:
        super().__init__(config, reactor, **clocks)
        self.dispatcher, self.eraser, self.counting = dispatcher, eraser, counting
        self._make_deliverer = make_deliverer
        self._rates = RatesByName()
        for service in (dispatcher, eraser, counting):
            service.setServiceParent(self)

    def stopService(self) -> Deferred[None]:
        return ensureDeferred(self._stop())

    async def _stop(self) -> None:
        self._stopping = True
        await gatherResults([ensureDeferred(one.finish()) for one in (self.dispatcher, self.eraser, self.counting)])
        self.pulse.stop()

    def prepare(self, config: Config) -> Prepared:
        fresh = {
            name: self._make_deliverer(name, platform)
            for name, platform in config.platforms.items()
            if platform != self.config.platforms.get(name)
        }
        gone = self.config.platforms.keys() - config.platforms.keys()

        def swap() -> Deferred[Any]:
            self.config = config
            if not fresh and not gone:  # then the routes are the same too: they are made of these files alone
                return succeed(None)
            return self.dispatcher.reconfigure(routes(config), fresh, gone)

        return Prepared(swap)

    def drain(self) -> Deferred[Any]:
        self._draining = True
        return self.dispatcher.workers.drain()

    def go_on(self) -> None:
        self._draining = False
        self.dispatcher.workers.go_on()

    def pause(self, name: str) -> None:
        self._check(name)
        self.dispatcher.workers.pause(name)

    def resume(self, name: str) -> None:
        self._check(name)
        self.dispatcher.workers.resume(name)

    def _check(self, name: str) -> None:
        if name not in self.config.platforms:
            raise UnknownName("platform", name, self.config.platforms)

    def snapshot(self, configuration: ConfigurationStatus, log_levels: LogLevels) -> Snapshot:
        served = self.dispatcher.workers.served()
        return Snapshot(
            **self._head(configuration, log_levels, self.counting.store_watch),
            platforms=(*map(self._status, served), *self._unserved({one.name for one in served})),
        )

    def _status(self, served: Served) -> PlatformStatus:
        rates = self._rates.per_s(served.name, served.counts.confirmed, self._monotonic())
        return self._platform(served, self.config.platforms[served.name].apps, rates)

    def _unserved(self, served: Collection[str]) -> Iterator[PlatformStatus]:
        """Those without an enabled file where something is due or rejected: nobody else tells of it."""
        for name, one in self.counting.unserved.items():
            if name not in served:  # else a reload came after the count
                idle = Served(
                    name=name,
                    word=PlatformWord.UNSERVED,
                    paused=False,
                    since=one.since,
                    counts=Counts(),
                    state=one.state,
                    next_try_at=None,
                )
                yield self._platform(idle, one.apps, dict.fromkeys(WINDOWS_S, 0.0))

    def _platform(self, served: Served, apps: tuple[str, ...], rates: Mapping[str, float]) -> PlatformStatus:
        due = self.counting.due.get(served.name, DueFigures())
        rejected = self.counting.rejected.get(served.name, RejectedFigures())
        counts, state = served.counts, served.state
        return PlatformStatus(
            name=served.name or NO_PLATFORM,
            word=served.word.value,
            paused=served.paused,
            since=int(served.since * 1000),
            apps=apps,
            due=due.count,
            due_more=due.more,
            oldest_due_at=due.oldest_at,
            rejected=rejected.count,
            rejected_more=rejected.more,
            confirmed=counts.confirmed,
            rejections=counts.rejections,
            postponed=counts.postponed,
            failures=counts.failures,
            rates=rates,
            push_s={"count": counts.pushes, "sum": round(counts.push_s, 6)},
            last_success_at=None if state is None else state.last_success_at,
            last_error=None if state is None else state.last_error,
            last_error_at=None if state is None else state.last_error_at,
            next_try_at=ms(served.next_try_at),
            certificate_left_s=None if (ends_at := served.certificate_ends_at) is None else ends_at - self._wall(),
        )

    def _beat(self) -> None:
        served = self.dispatcher.workers.served()
        self._rates.sample({one.name: one.counts.confirmed for one in served}, self._monotonic())


def routes(config: Config) -> dict[str, str]:
    """The platform of each app."""
    return {app: name for name, platform in config.platforms.items() for app in platform.apps}
