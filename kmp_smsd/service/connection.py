"""One TCP connection to an SMSC: the socket and the clock that the SMPP session does without."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.base import DelayedCall
from twisted.internet.error import ConnectBindError, ConnectError, TimeoutError
from twisted.internet.protocol import ClientFactory
from twisted.internet.protocol import Protocol as StreamProtocol
from twisted.python.failure import Failure

from kmp_smsd.domain.shown import shown
from kmp_smsd.smpp.constants import name_of
from kmp_smsd.smpp.events import (
    BadPdu,
    BindRefused,
    BindUnanswered,
    Bound,
    Closed,
    Event,
    LinkDead,
    Messages,
    PeerUnbound,
    SubmitAnswered,
    SubmitUnanswered,
)
from kmp_smsd.smpp.pdu import Message
from kmp_smsd.smpp.session import EsmeSession, SessionSettings
from kmp_smsd.smpp.states import State
from kmp_smsd.smpp.submit import SubmitSm

if TYPE_CHECKING:
    from kmp_smsd.service.link import SmscLink

TICK_S = 0.5  # how often a session's timers are looked at
CLOSE_WITHIN_S = 5.0  # for a peer that does not take our last octets
LOG_BAD_PDUS_EVERY_S = 10.0


# Is told what the SMSC said about a submit_sm; None where that is not known.
Told = Callable[[SubmitAnswered | None], None]


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


class ConnectionFactory(ClientFactory):
    """Makes the connection of one try."""

    noisy = False

    def __init__(self, link: SmscLink, session_settings: SessionSettings) -> None:
        self._link = link
        self._session_settings = session_settings

    def buildProtocol(self, _addr: object) -> LinkConnection:
        """Return the connection that was made."""
        return LinkConnection(self._link, EsmeSession(self._session_settings, self._link.trace))

    def clientConnectionFailed(self, _connector: object, reason: Failure) -> None:
        """Tell the link that none was."""
        self._link.not_connected(f"no connection: {_why(reason.value)}")


def _why(error: BaseException | None) -> str:
    """What the kernel says, where Twisted says it twice, with its number."""
    match error:
        case ConnectBindError(osError=int(number)):
            return f"from local_address: {os.strerror(number)}"
        case ConnectError(osError=int(number)):
            return os.strerror(number)
        case TimeoutError():
            return "no answer within connect_timeout_s"
    return str(error).rstrip(".")


class LinkConnection(StreamProtocol):
    """One TCP connection of a link and the session on it."""

    transport: Any

    def __init__(self, link: SmscLink, session: EsmeSession) -> None:
        self.link_name = link.name
        self.finishing = False
        self.bind_failure: BindRefused | BindUnanswered | None = None
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
        self._submitted: dict[int, Told] = {}  # by sequence_number

    @property
    def bound_for_s(self) -> float | None:
        """How long ago the SMSC accepted our bind, in seconds, or None where it never did."""
        return None if self._bound_at is None else self._link.monotonic() - self._bound_at

    @property
    def enquire_rtt_s(self) -> float | None:
        """How long the SMSC took to answer our last enquire_link, in seconds; None where none was answered yet."""
        return self._session.enquire_rtt_s

    def answer(self, pairs: Sequence[tuple[Message, int]]) -> None:
        """Answer these messages with one write."""
        if not self._closing:
            self._link.count_answers(pairs)
        self._session.answer(pairs)
        self._flush()

    @property
    def can_submit(self) -> bool:
        """Whether `submit` sends something now."""
        return not (self.finishing or self._closing or self._write_blocked) and self._session.can_submit

    def submit(self, submit_sm: SubmitSm, told: Told) -> bool:
        """Send `submit_sm`, and call `told` once with what became of it; False where it cannot be sent at all."""
        number = self._session.submit(submit_sm, self._link.monotonic()) if self.can_submit else None
        if number is None:
            return False
        self._submitted[number] = told
        self._flush()
        return True

    def finish(self, within_s: float) -> None:
        """Take nothing new, unbind once either side has answered all, close after `within_s` seconds at the latest."""
        if not self.finishing:
            self.finishing = True
            self.ended_because = "unbound by us"
            self._link.unbinding()
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
        self._link.traffic.last_received_at = self._link.wall()
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
        submitted, self._submitted = self._submitted, {}
        for told in submitted.values():
            told(None)
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
                link.bound(command_id)
                link.log.info(
                    "link {link}: {word} to {peer} ({system_id}, version {version})",
                    event="link_bound",
                    link=self.link_name,
                    word=link.state.word,
                    peer=link.state.peer,
                    system_id=shown(system_id),
                    version="unknown" if version is None else f"{version:#04x}",
                )
            case BindRefused(command_id, status):
                self.bind_failure = event
                self.ended_because = f"{command_id.name.lower()} was refused with {name_of(status)}"
            case BindUnanswered(reason):
                self.bind_failure = event
                self.ended_because = reason
            case SubmitAnswered(number):
                self._submitted.pop(number)(event)
            case SubmitUnanswered(number):
                self._submitted.pop(number)(None)
            case BadPdu():
                self._count_bad(event)
            case PeerUnbound():
                self.ended_because = "unbound by the SMSC"
                link.unbinding()
            case LinkDead(reason) | Closed(reason):
                self.ended_because = reason

    def _hand_over(self, messages: tuple[Message, ...]) -> None:
        traffic = self._link.traffic
        traffic.messages += len(messages)
        traffic.last_message_at = traffic.last_received_at
        if not self.finishing:
            try:
                self._link.receiver.messages(self, messages)
                return
            except Exception:  # a bug of ours must not cost the SMSC its answers
                self._link.log.failure("link {link}: the receiver failed", event="receiver_failed", link=self.link_name)
        temporary = self._link.options.temporary_status
        left = [(message, temporary) for message in messages]
        self._link.count_answers(left)
        self._session.answer(left)

    def _count_bad(self, bad: BadPdu) -> None:
        self._link.traffic.bad_pdus += 1
        now = self._link.monotonic()
        if now - self._bad_pdus_logged_at < LOG_BAD_PDUS_EVERY_S:
            self._bad_pdus_unlogged += 1
            return
        self._link.log.warn(
            "link {link}: bad PDU, sequence_number {sequence_number}: {reason}; answered {status}; {unlogged} more",
            event="bad_pdu",
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
        if self.finishing and not session.unanswered and not self._submitted:
            session.unbind(self._link.monotonic())
        data = session.data_to_send()
        if data:
            self.transport.write(data)
            self._link.traffic.last_sent_at = self._link.wall()
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
        """Pause at twice `in_flight_max` and go on at once that: the receiver refuses messages long before.

        A paused link could not be enquired.
        """
        if self._closing:
            return
        most = 2 * self._link.options.in_flight_max
        if self._write_blocked or self._session.unanswered >= most:
            if self._reading:
                self._reading = False
                self._session.reading_paused()
                self.transport.pauseProducing()
        elif self._session.unanswered <= most // 2:
            self._resume()

    def _resume(self) -> None:
        if not self._reading:
            self._reading = True
            self._session.reading_resumed(self._link.monotonic())
            self.transport.resumeProducing()

    def _later(self, name: str, wait_s: float, call: Callable[[], None]) -> None:
        self._calls[name] = self._link.reactor.callLater(wait_s, call)
