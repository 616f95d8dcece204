"""A link to one SMSC: the sockets, the clock and the patience that the SMPP session does without."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import ClientFactory
from twisted.internet.protocol import Protocol as StreamProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from kmp_smsd.service.backoff import Backoff
from kmp_smsd.smpp.constants import VERSION_3_4, CommandId, CommandStatus, name_of
from kmp_smsd.smpp.events import BadPdu, BindRefused, Bound, Closed, Event, LinkDead, Messages, PeerUnbound
from kmp_smsd.smpp.pdu import Bind, Message
from kmp_smsd.smpp.session import EsmeSession, SessionSettings
from kmp_smsd.smpp.states import State

TICK_S = 0.5  # how often a session's timers are looked at
CLOSE_WITHIN_S = 5.0  # for a peer that does not take our last octets
LOG_BAD_PDUS_EVERY_S = 10.0

_BIND_COMMANDS = {"transceiver": CommandId.BIND_TRANSCEIVER, "receiver": CommandId.BIND_RECEIVER}
_WRONG_ACCOUNT = frozenset(  # trying again at once helps nobody, and some SMSCs then ban the address
    {
        CommandStatus.ESME_RINVPASWD,
        CommandStatus.ESME_RINVSYSID,
        CommandStatus.ESME_RINVSYSTYP,
        CommandStatus.ESME_RPROHIBITED,
    }
)
_BUSY = frozenset({CommandStatus.ESME_RSYSERR, CommandStatus.ESME_RTHROTTLED, CommandStatus.ESME_RMSGQFUL})


class Receiver(Protocol):
    """Whoever decides what messages mean."""

    def messages(self, connection: Connection, messages: tuple[Message, ...]) -> None:
        """Take these messages. Each is to be answered once, now or later, through `connection`. Must not block."""


class Connection(Protocol):
    """Where the answers go: the connection that the messages came by."""

    @property
    def link_name(self) -> str:
        """The name of the link in the configuration."""

    def answer(self, pairs: Sequence[tuple[Message, int]]) -> None:
        """Send a command_status for each message. Does nothing once the connection is gone: the SMSC sends again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkSettings:
    """What a link is told. Times in seconds; None switches a timer off."""

    name: str
    hosts: tuple[tuple[str, int], ...]  # tried in turn
    system_id: str
    password: str = field(repr=False)
    local_address: str | None = None
    system_type: str = ""
    addr_ton: int = 0
    addr_npi: int = 0
    address_range: str = ""
    interface_version: int = VERSION_3_4
    bind_modes: tuple[str, ...] = ("transceiver", "receiver")  # the next one where the SMSC does not take one
    allow_long_password: bool = False
    connect_within_s: float = 30.0
    bind_within_s: float = 30.0
    enquire_link_s: float | None = 30.0
    answer_within_s: float = 60.0  # the SMSC's time to answer our requests
    read_within_s: float = 10.0
    reconnect_min_s: float = 1.0
    reconnect_max_s: float = 120.0
    already_bound_wait_s: float = 60.0  # after RALYBND: our old session must die at the SMSC first
    refused_wait_s: float = 300.0  # after a wrong password and the like
    lasting_bind_s: float = 60.0  # a bind that lived so long makes the next wait short again
    drain_within_s: float = 10.0
    temporary_status: int = CommandStatus.ESME_RX_T_APPN
    max_pdu_octets: int = 70_000
    max_unanswered: int = 4_000  # with so many unanswered messages, reading pauses

    def session_settings(self, mode: str) -> SessionSettings:
        """Return what a session in this bind mode needs. Raises ValueError where a value does not fit into a bind."""
        return SessionSettings(
            bind=Bind(
                command_id=_BIND_COMMANDS[mode],
                system_id=self.system_id,
                password=self.password,
                system_type=self.system_type,
                interface_version=self.interface_version,
                addr_ton=self.addr_ton,
                addr_npi=self.addr_npi,
                address_range=self.address_range,
                allow_long_password=self.allow_long_password,
            ),
            bind_timeout_s=self.bind_within_s,
            enquire_after_s=self.enquire_link_s,
            response_timeout_s=self.answer_within_s,
            pdu_timeout_s=self.read_within_s,
            unbind_timeout_s=self.drain_within_s,
            max_pdu_octets=self.max_pdu_octets,
        )


class LinkWord(StrEnum):
    """How a link is, in a word."""

    STOPPED = "stopped"
    CONNECTING = "connecting"
    BINDING = "binding"
    BOUND_RECEIVER = "bound as receiver"
    BOUND_TRANSCEIVER = "bound as transceiver"
    UNBINDING = "unbinding"
    WAITING = "waiting to reconnect"


_BOUND_WORDS = {
    CommandId.BIND_RECEIVER: LinkWord.BOUND_RECEIVER,
    CommandId.BIND_TRANSCEIVER: LinkWord.BOUND_TRANSCEIVER,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkState:
    """How a link is. Times are Unix seconds, None for never."""

    name: str
    word: LinkWord
    since: float
    peer: str = ""
    last_received_at: float | None = None
    last_sent_at: float | None = None
    binds: int = 0
    messages: int = 0
    bad_pdus: int = 0
    last_error: str = ""


class SmscLink(Service):
    """Keeps one link bound, for ever: reconnects with back-off, over all hosts, until it is drained.

    `reactor` has TCP and time. `monotonic` is the clock of the session's timers, which a change of the wall clock must
    not move; `jitter` gives numbers from 0 to 1.
    """

    def __init__(
        self,
        settings: LinkSettings,
        receiver: Receiver,
        reactor: Any,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] | None = None,
    ) -> None:
        self.settings = settings
        self.receiver = receiver
        self.reactor = reactor
        self.monotonic = monotonic
        self.log = Logger()
        self._sessions = [settings.session_settings(mode) for mode in settings.bind_modes]
        self._mode = 0
        self._host = 0
        self._backoff = Backoff(settings.reconnect_min_s, settings.reconnect_max_s, *([jitter] if jitter else []))
        self._connector: Any = None
        self._connection: LinkConnection | None = None
        self._retry: DelayedCall | None = None
        self._draining = False
        self._waiters: list[Deferred[None]] = []  # one for each call of drain
        self._state = LinkState(name=settings.name, word=LinkWord.STOPPED, since=reactor.seconds())

    @property
    def state(self) -> LinkState:
        """A snapshot for `status`."""
        return self._state

    def startService(self) -> None:
        """Begin to connect."""
        super().startService()  # type: ignore[no-untyped-call]
        self._draining = False
        self._connect()

    def stopService(self) -> Deferred[None]:
        """Drain, see there."""
        super().stopService()  # type: ignore[no-untyped-call]
        return self.drain()

    def drain(self) -> Deferred[None]:
        """End the link in good order; fires when its connection is closed.

        New messages get the temporary status. What the receiver has in hand is still answered, then we unbind and go
        on reading and answering until the SMSC agrees or `drain_within_s` have passed.
        """
        if self._state.word is LinkWord.STOPPED:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._waiters.append(waiter)
        self._draining = True
        if self._connection is not None:
            self._connection.finish(self.settings.drain_within_s)
        elif self._connector is not None:
            self._connector.stopConnecting()
        elif self._retry is not None:
            self._retry.cancel()
            self._stopped()
        return waiter

    def back_off(self) -> None:
        """Unbind, and bind again later: until then the SMSC stores what we cannot."""
        if self._connection is not None:
            self.log.warn("link {link}: unbinding to let the SMSC store", link=self.settings.name)
            self._connection.finish(self.settings.drain_within_s)

    def note(self, **changes: Any) -> None:
        """Change the snapshot; a new `word` also changes `since`."""
        if changes.get("word", self._state.word) is not self._state.word:
            changes["since"] = self.reactor.seconds()
        self._state = replace(self._state, **changes)

    def connected(self, connection: LinkConnection) -> None:
        """A connection was made."""
        self._connector = None
        self._connection = connection
        self.note(word=LinkWord.BINDING)

    def not_connected(self, reason: str) -> None:
        """No connection could be made."""
        self._connector = None
        self._host += 1
        self._try_later(reason, 0.0)

    def disconnected(self, connection: LinkConnection) -> None:
        """The connection that was ours is gone."""
        self._connection = None
        wait_s = 0.0
        if connection.bound_for_s is None:
            wait_s = self._after_failed_bind(connection.refused_with)
        elif connection.bound_for_s >= self.settings.lasting_bind_s and not connection.finishing:
            self._backoff.reset()
        self._try_later(connection.ended_because, wait_s)

    def _after_failed_bind(self, status: int | None) -> float:
        """Choose mode and host of the next try; return the shortest wait before it. None: the bind got no answer."""
        if status in _WRONG_ACCOUNT:
            self.log.error(
                "link {link}: the SMSC refuses this account with {status}; check system_id, password and system_type",
                link=self.settings.name,
                status=name_of(status or 0),
            )
            return self.settings.refused_wait_s
        if status == CommandStatus.ESME_RALYBND:
            return self.settings.already_bound_wait_s
        if status not in _BUSY:
            self._mode += 1
        if status in _BUSY or self._mode % len(self._sessions) == 0:
            self._host += 1
        return self.settings.already_bound_wait_s if status == CommandStatus.ESME_RBINDFAIL else 0.0

    def _connect(self) -> None:
        self._retry = None
        settings = self.settings
        host, port = settings.hosts[self._host % len(settings.hosts)]
        self.note(word=LinkWord.CONNECTING, peer=f"{host}:{port}")
        factory = _ConnectionFactory(self, self._sessions[self._mode % len(self._sessions)])
        bind_address = (settings.local_address, 0) if settings.local_address else None
        self._connector = self.reactor.connectTCP(
            host, port, factory, timeout=settings.connect_within_s, bindAddress=bind_address
        )

    def _try_later(self, reason: str, at_least_s: float) -> None:
        if self._draining:
            self._stopped()
            return
        wait_s = self._backoff.next_s(at_least_s)
        self.note(word=LinkWord.WAITING, last_error=reason)
        self.log.warn(
            "link {link}: {reason}; next try in {wait_s:.1f} s", link=self.settings.name, reason=reason, wait_s=wait_s
        )
        self._retry = self.reactor.callLater(wait_s, self._connect)

    def _stopped(self) -> None:
        self.note(word=LinkWord.STOPPED)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)


class _ConnectionFactory(ClientFactory):
    noisy = False

    def __init__(self, link: SmscLink, session_settings: SessionSettings) -> None:
        self._link = link
        self._session_settings = session_settings

    def buildProtocol(self, _addr: object) -> LinkConnection:
        return LinkConnection(self._link, EsmeSession(self._session_settings))

    def clientConnectionFailed(self, _connector: object, reason: Failure) -> None:
        self._link.not_connected(f"no connection: {reason.getErrorMessage().rstrip('.')}")


class LinkConnection(StreamProtocol):
    """One TCP connection of a link and the session on it."""

    transport: Any

    def __init__(self, link: SmscLink, session: EsmeSession) -> None:
        self.link_name = link.settings.name
        self.finishing = False
        self.refused_with: int | None = None  # the command_status of a refused bind
        self.ended_because = "the SMSC closed the connection"
        self._link = link
        self._session = session
        self._bound_at: float | None = None
        self._calls: dict[str, DelayedCall] = {}
        self._closing = False
        self._write_blocked = False
        self._reading = True
        self._bad_pdus_logged_at = float("-inf")
        self._bad_pdus_unlogged = 0

    @property
    def bound_for_s(self) -> float | None:
        """How long ago the SMSC accepted our bind, in seconds, or None where it never did."""
        return None if self._bound_at is None else self._link.monotonic() - self._bound_at

    def answer(self, pairs: Sequence[tuple[Message, int]]) -> None:
        """Answer these messages with one write."""
        self._session.answer_all(pairs)
        self._flush()

    def finish(self, within_s: float) -> None:
        """Take nothing new, unbind once all is answered, close after `within_s` seconds at the latest."""
        if not self.finishing:
            self.finishing = True
            self.ended_because = "unbound by us"
            self._link.note(word=LinkWord.UNBINDING)
            self._later("give up", within_s, self._close)
            self._flush()

    def connectionMade(self) -> None:
        """Send the bind."""
        self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        self._link.connected(self)
        self._session.connection_made(self._link.monotonic())
        self._later("tick", TICK_S, self._tick)
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        """Act on what the SMSC sent."""
        self._link.note(last_received_at=self._link.reactor.seconds())
        for event in self._session.receive_data(data, self._link.monotonic()):
            self._act(event)
        self._flush()

    def connectionLost(self, _reason: Failure | None = None) -> None:
        """Forget the session and tell the link."""
        for call in self._calls.values():
            if call.active():
                call.cancel()
        self._closing = True
        self._session.connection_lost()
        self._link.disconnected(self)

    def pauseProducing(self) -> None:
        """The SMSC does not read our answers: read none of its requests."""
        self._write_blocked = True
        self._choose_reading()

    def resumeProducing(self) -> None:
        """The SMSC reads our answers again."""
        self._write_blocked = False
        self._choose_reading()

    def stopProducing(self) -> None:
        """The connection ends; `connectionLost` does what is to be done."""

    def _act(self, event: Event) -> None:
        link = self._link
        match event:
            case Messages(messages):
                self._hand_over(messages)
            case Bound(command_id, system_id, version):
                self._bound_at = link.monotonic()
                link.note(word=_BOUND_WORDS[command_id], binds=link.state.binds + 1, last_error="")
                link.log.info(
                    "link {link}: {word} to {peer} ({system_id}, version {version})",
                    link=self.link_name,
                    word=link.state.word,
                    peer=link.state.peer,
                    system_id=system_id,
                    version="unknown" if version is None else f"{version:#04x}",
                )
            case BindRefused(command_id, status):
                self.refused_with = status
                self.ended_because = f"{command_id.name.lower()} was refused with {name_of(status)}"
            case BadPdu():
                self._count_bad(event)
            case PeerUnbound():
                self.ended_because = "unbound by the SMSC"
                link.note(word=LinkWord.UNBINDING)
            case LinkDead(reason) | Closed(reason):
                self.ended_because = reason

    def _hand_over(self, messages: tuple[Message, ...]) -> None:
        self._link.note(messages=self._link.state.messages + len(messages))
        if not self.finishing:
            try:
                self._link.receiver.messages(self, messages)
                return
            except Exception:
                self._link.log.failure("link {link}: the receiver failed", link=self.link_name)
        temporary = self._link.settings.temporary_status
        self._session.answer_all([(message, temporary) for message in messages])

    def _count_bad(self, bad: BadPdu) -> None:
        self._link.note(bad_pdus=self._link.state.bad_pdus + 1)
        now = self._link.monotonic()
        if now - self._bad_pdus_logged_at < LOG_BAD_PDUS_EVERY_S:
            self._bad_pdus_unlogged += 1
            return
        self._link.log.warn(
            "link {link}: bad PDU, sequence_number {sequence_number}: {reason}; answered {status}; {unlogged} more",
            link=self.link_name,
            sequence_number=bad.sequence_number,
            reason=bad.reason,
            status="nothing" if bad.command_status is None else name_of(bad.command_status),
            unlogged=self._bad_pdus_unlogged,
        )
        self._bad_pdus_logged_at, self._bad_pdus_unlogged = now, 0

    def _tick(self) -> None:
        self._later("tick", TICK_S, self._tick)
        for event in self._session.check_timers(self._link.monotonic()):
            self._act(event)
        self._flush()

    def _flush(self) -> None:
        """Send what is ready and close what is over."""
        if self._closing:
            return
        session = self._session
        if self.finishing and not session.unanswered:
            session.unbind(self._link.monotonic())
        data = session.data_to_send()
        if data:
            self.transport.write(data)
            self._link.note(last_sent_at=self._link.reactor.seconds())
        if session.state is State.CLOSED:
            self._close()
        else:
            self._choose_reading()

    def _close(self) -> None:
        """Close once the peer has taken what is written, or after CLOSE_WITHIN_S."""
        if not self._closing:
            self._closing = True
            self._resume()
            self.transport.unregisterProducer()
            self.transport.loseConnection()
            self._later("abort", CLOSE_WITHIN_S, self.transport.abortConnection)

    def _choose_reading(self) -> None:
        """Pause at `max_unanswered` and go on at half of it."""
        if self._closing:
            return
        most = self._link.settings.max_unanswered
        if self._write_blocked or self._session.unanswered >= most:
            if self._reading:
                self._reading = False
                self.transport.pauseProducing()
        elif self._session.unanswered <= most // 2:
            self._resume()

    def _resume(self) -> None:
        if not self._reading:
            self._reading = True
            self.transport.resumeProducing()

    def _later(self, name: str, wait_s: float, call: Callable[[], None]) -> None:
        self._calls[name] = self._link.reactor.callLater(wait_s, call)
