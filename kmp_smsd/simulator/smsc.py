"""An SMSC that stores and forwards, for the demo, the tests and the benchmark."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from kmp_smsd.simulator.deliver import deliver_sm_body
from kmp_smsd.simulator.smsc_session import Mo, SmscSession
from kmp_smsd.simulator.submit import SubmitAnswer, decode_submit_sm
from kmp_smsd.smpp.constants import CommandStatus
from kmp_smsd.smpp.submit import SubmitSm

TICK_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class SmscSettings:
    """How the simulated SMSC behaves. Times in seconds; None switches a timer off."""

    system_id: str = "esme"
    password: str = field(default="secret", repr=False)
    takes_transceivers: bool = True
    window: int = 10  # unanswered messages per session
    retry_statuses: frozenset[int] = frozenset(
        {
            CommandStatus.ESME_RX_T_APPN,
            CommandStatus.ESME_RTHROTTLED,
            CommandStatus.ESME_RSYSERR,
            CommandStatus.ESME_RMSGQFUL,
        }
    )  # any other than these and ROK means never
    retry_after_s: float = 1.0
    answer_within_s: float = 10.0  # a message without an answer for so long is sent again
    enquire_link_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What has happened so far, in numbers of events."""

    binds: int = 0
    binds_refused: int = 0
    sent: int = 0  # every sending of a message, the first one and those again
    accepted: int = 0  # answered with ROK
    refused: int = 0  # answered with a status that means never
    put_off: int = 0  # answered with a status that means later
    lost: int = 0  # not answered: in time, or before the connection ended
    enquire_links_answered: int = 0  # by the ESME
    submits: int = 0  # submit_sm from the ESME, however answered


class Smsc:
    """Keeps messages until an ESME accepts them or says never; `reactor` has TCP and time."""

    def __init__(self, settings: SmscSettings, reactor: Any) -> None:
        self.settings = settings
        self.reactor = reactor
        self.counts = Counts()
        self.submitted: list[SubmitSm] = []  # those that were answered with ROK
        self.on_submit: Callable[[SubmitSm], SubmitAnswer] = lambda _: SubmitAnswer()
        self.log = Logger()
        self._stored: deque[Mo] = deque()
        self._later: deque[tuple[float, Mo]] = deque()  # Unix seconds when it is due, in order
        self._sessions: list[SmscSession] = []
        self._port: Any = None
        self._tick: DelayedCall | None = None

    def listen(self, port: int = 0) -> int:
        """Open the port on loopback, 0 for any free one, and return its number."""
        factory = Factory.forProtocol(SmscSession)
        factory.noisy = False
        factory.smsc = self  # type: ignore[attr-defined]  # as Twisted has its protocols find their owner
        self._port = self.reactor.listenTCP(port, factory, interface="127.0.0.1")
        self._tick = self.reactor.callLater(TICK_S, self._on_tick)
        return int(self._port.getHost().port)

    def close(self) -> Deferred[None]:
        """Close the port and every connection; fires when the port is closed."""
        if self._tick is not None and self._tick.active():
            self._tick.cancel()
        self.drop()
        closed: Deferred[None] = self._port.stopListening()
        return closed

    def send(self, source_addr: str, text: str | bytes, **fields: Any) -> Deferred[int]:
        """Store one message for the ESME; fires with the command_status that was the last word on it.

        `fields` are those of `deliver_sm_body`.
        """
        return self.send_body(deliver_sm_body(source_addr, text, **fields))

    def send_body(self, body: bytes) -> Deferred[int]:
        """Store one message given as the body of its deliver_sm, which may be wrong; see `send`."""
        done: Deferred[int] = Deferred()
        self._stored.append(Mo(body, done))
        self.pump()
        return done

    def store(self, bodies: Iterable[bytes]) -> None:
        """Store many messages whose answers are only counted."""
        self._stored.extend(Mo(body, None) for body in bodies)
        self.pump()

    @property
    def waiting(self) -> int:
        """How many messages have not had the last word yet."""
        return len(self._stored) + len(self._later) + sum(session.unanswered for session in self._sessions)

    @property
    def bound(self) -> int:
        """How many sessions take messages now."""
        return sum(session.takes_messages for session in self._sessions)

    @property
    def submitters(self) -> int:
        """How many sessions may submit now."""
        return sum(session.may_submit for session in self._sessions)

    def drop(self) -> None:
        """Cut every connection without a word, as a broken network does."""
        for session in list(self._sessions):
            session.transport.abortConnection()

    def unbind(self) -> None:
        """Send unbind on every session that is bound."""
        for session in self._sessions:
            session.unbind()

    def answer_submit(self, pdu: bytes) -> SubmitAnswer:
        """Judge a submit_sm, and keep it where it is taken."""
        self.count(submits=1)
        try:
            submit_sm = decode_submit_sm(pdu)
        except ValueError as error:
            self.log.warn("submit_sm: {reason}", reason=str(error))
            return SubmitAnswer(CommandStatus.ESME_RINVMSGLEN)
        answer = self.on_submit(submit_sm)
        if answer == SubmitAnswer():
            self.submitted.append(submit_sm)
        return answer

    def count(self, **more: int) -> None:
        """Add to the counts."""
        self.counts = replace(self.counts, **{name: getattr(self.counts, name) + n for name, n in more.items()})

    def opened(self, session: SmscSession) -> None:
        """An ESME connected."""
        self._sessions.append(session)

    def gone(self, session: SmscSession, unanswered: list[Mo]) -> None:
        """A connection ended; what it left unanswered goes to the next session first."""
        self._sessions.remove(session)
        self.count(lost=len(unanswered))
        self._stored.extendleft(reversed(unanswered))
        self.pump()

    def pump(self) -> None:
        """Send stored messages on every session that has room."""
        for session in self._sessions:
            session.pump()

    def take(self, room: int) -> list[Mo]:
        """Hand out the oldest stored messages."""
        return [self._stored.popleft() for _ in range(min(room, len(self._stored)))]

    def settle(self, answers: list[tuple[Mo, int]]) -> None:
        """Act on what the ESME said about its messages."""
        retry_at = self.reactor.seconds() + self.settings.retry_after_s
        accepted = refused = put_off = 0
        for mo, status in answers:
            if status in self.settings.retry_statuses:
                self._later.append((retry_at, mo))
                put_off += 1
                continue
            if status == CommandStatus.ESME_ROK:
                accepted += 1
            else:
                refused += 1
            if mo.done is not None:
                mo.done.callback(status)
        self.count(accepted=accepted, refused=refused, put_off=put_off)

    def unanswered_in_time(self, late: list[Mo]) -> None:
        """Keep messages that had no answer for their next try."""
        retry_at = self.reactor.seconds() + self.settings.retry_after_s
        self.count(lost=len(late))
        self._later.extend((retry_at, mo) for mo in late)

    def _on_tick(self) -> None:
        self._tick = self.reactor.callLater(TICK_S, self._on_tick)
        now = self.reactor.seconds()
        while self._later and self._later[0][0] <= now:
            self._stored.append(self._later.popleft()[1])
        for session in self._sessions:
            session.check(now)
        self.pump()
