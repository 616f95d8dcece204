"""The role intake: the links and the intake behind them, what a reload makes of them, and how they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred, gatherResults

from kmp_smsd.config.link import Link
from kmp_smsd.config.load import Config
from kmp_smsd.service.intake import Intake
from kmp_smsd.service.link import SmscLink
from kmp_smsd.service.log_levels import LogLevels
from kmp_smsd.service.rates import RatesByName
from kmp_smsd.service.role import NotAtRest, Prepared, Role, RoleService, UnknownName
from kmp_smsd.service.status import ConfigurationStatus, LinkStatus, Snapshot, ms

MEASURE_EVERY_S = 5.0

# The receiver, and of a pair the transmitter behind it.
Links = Sequence[SmscLink]


class NothingToDo(Exception):
    """The configuration names no SMSC, so intake would run and never hear anything (exit 78)."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: no [smsc.NAME] section is enabled: intake has nothing to bind to")


class IntakeRole(RoleService):
    """Stops in the order of the data: links first. `make_links` makes those of one ``[smsc.NAME]`` section."""

    role = Role.INTAKE

    def __init__(
        self, config: Config, intake: Intake, make_links: Callable[[str, Link], Links], reactor: Any, **clocks: Any
    ) -> None:
        super().__init__(config, reactor, **clocks)
        self.intake = intake
        self._make_links = make_links
        self._links: dict[str, Links] = {name: make_links(name, link) for name, link in config.smsc.items()}
        self._paused: set[str] = set()
        self._leaving: list[SmscLink] = []
        self._rates = RatesByName()
        self._measured_at = float("-inf")  # monotonic seconds
        intake.setServiceParent(self)
        for links in self._links.values():
            self._begin(links)

    @property
    def links(self) -> list[SmscLink]:
        """Every connection: receivers first, then the transmitters of pairs."""
        every = self._links.values()
        return [links[0] for links in every] + [link for links in every for link in links[1:]]

    @property
    def links_end_within_s(self) -> float:
        return max((link.options.unbind_timeout_s for link in (*self.links, *self._leaving)), default=0.0)

    def stopService(self) -> Deferred[None]:
        return ensureDeferred(self._stop())

    async def _stop(self) -> None:
        self._stopping = True
        await gatherResults([link.drain() for link in (*self.links, *self._leaving)])
        self.pulse.stop()  # it asks for the store
        await self.intake.finish()

    def prepare(self, config: Config) -> Prepared:
        if not config.smsc:
            raise NothingToDo(config.path)
        fresh, passwords = {}, []
        for name, link in config.smsc.items():
            links = self._make_links(name, link)
            if link != self.config.smsc.get(name):
                fresh[name] = links
            elif links[0].password != self._links[name][0].password:
                fresh[name] = links
                passwords.append(f"the password of [smsc.{name}]")
        return Prepared(lambda: self._swap(config, fresh), tuple(passwords))

    def _swap(self, config: Config, fresh: Mapping[str, Links]) -> Deferred[Any]:
        for link in self.links:
            link.trace.end("the configuration was reloaded")
        before = {name: links for name, links in self._links.items() if name in fresh or name not in config.smsc}
        # They begin to drain before intake forgets what was agreed with them.
        left = {name: self._leave(links) for name, links in before.items()}
        self.intake.reconfigure(config.sync, config.numbering, config.policy, config.smsc)
        self.config = config
        self._links = {name: fresh[name] if name in fresh else self._links[name] for name in config.smsc}
        self._paused &= self._links.keys()
        for name, links in fresh.items():
            for link, old in zip(links, before.get(name, ()), strict=False):
                link.succeed(old)
            if name in left:  # an SMSC may refuse a bind while the one before it stands
                left[name].addCallback(self._begin_after, links)
            else:
                self._begin(links)
        return gatherResults(left.values())

    def _begin_after(self, result: Any, links: Links) -> Any:
        self._begin(links)
        return result

    def _leave(self, links: Links) -> Deferred[Any]:
        """Have links drain and be forgotten."""
        self._leaving += links

        def forget(result: Any) -> Any:
            for link in links:
                self._leaving.remove(link)
            return result

        return gatherResults([link.disownServiceParent() for link in links]).addBoth(forget)

    def _begin(self, links: Links) -> None:
        if self._stopping or links not in self._links.values():
            return
        for name, known in self._links.items():
            if known is links and (self._draining or name in self._paused):
                for link in links:
                    link.halt()
        self.intake.attach(links[0])
        for link in links:
            link.setServiceParent(self)

    def drain(self) -> Deferred[Any]:
        self._draining = True
        leaving = [link.drain() for link in self._leaving]
        halted = gatherResults([link.halt() for link in self.links] + leaving)
        return halted.addCallback(lambda _: self.intake.settler.settle_all()).addCallback(self._check_rest)

    def _check_rest(self, _: None) -> None:
        if backlog := self.intake.settler.backlog:
            why = self.intake.store_watch.error
            raise NotAtRest(f"answered messages that cannot be settled now: {backlog:,} ({why})")

    def go_on(self) -> None:
        self._draining = False
        for name, links in self._links.items():
            if name not in self._paused:
                for link in links:
                    link.go_on()

    def pause(self, name: str) -> None:
        links = self._named(name)
        self._paused.add(name)
        for link in links:
            link.halt()

    def resume(self, name: str) -> None:
        links = self._named(name)
        self._paused.discard(name)
        if not self._draining:
            for link in links:
                link.go_on()

    def trace(self, name: str, minutes: float) -> None:
        for link in self._named(name):
            if minutes:
                link.trace.start(minutes)
            else:
                link.trace.end("it was asked to")

    def _named(self, name: str) -> Links:
        if name not in self._links:
            raise UnknownName("link", name, self._links)
        return self._links[name]

    def snapshot(self, configuration: ConfigurationStatus, log_levels: LogLevels) -> Snapshot:
        return Snapshot(
            **self._head(configuration, log_levels, self.intake.store_watch),
            links=tuple(
                self._status(link, name in self._paused) for name, links in self._links.items() for link in links
            ),
            outcomes=dict(self.intake.outcomes),
            unsettled=self.intake.settler.backlog,
        )

    def _status(self, link: SmscLink, paused: bool) -> LinkStatus:
        state, load = link.state, self.intake.load(link.name)
        return LinkStatus(
            name=link.name,
            word=state.word.value,
            bound=state.bound,
            paused=paused,
            since=int(state.since * 1000),
            peer=state.peer,
            last_received_at=ms(state.traffic.last_received_at),
            last_sent_at=ms(state.traffic.last_sent_at),
            last_message_at=ms(state.traffic.last_message_at),
            enquire_rtt_s=None if state.enquire_rtt_s is None else round(state.enquire_rtt_s, 6),
            binds=state.binds,
            bind_failures=state.bind_failures,
            reconnects=state.reconnects,
            messages=state.traffic.messages,
            answers=link.answers,
            rates=self._rates.per_s(link.name, state.traffic.messages, self._monotonic()),
            in_flight=load.in_flight,
            in_flight_max=load.in_flight_max,
            throttled=load.throttled,
            bad_pdus=state.traffic.bad_pdus,
            last_error=state.last_error,
            last_error_at=ms(state.last_error_at),
            next_try_at=ms(state.next_try_at),
        )

    def _beat(self) -> None:
        now = self._monotonic()
        self._rates.sample({link.name: link.traffic.messages for link in self.links}, now)
        if now - self._measured_at >= MEASURE_EVERY_S:
            self._measured_at = now
            self.intake.store_watch.measure()  # nobody waits for it
