"""An SMSC that stores and forwards, for the demo, the tests and the benchmark."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from kmp_smsd.simulator.deliver import deliver_sm_body, with_header
from kmp_smsd.simulator.submit import Manner, SubmitAnswer, decode_submit_sm
from kmp_smsd.smpp.codec import HEADER
from kmp_smsd.smpp.constants import (
    HEADER_OCTETS,
    MAX_SEQUENCE_NUMBER,
    RESPONSE,
    VERSION_3_4,
    CommandId,
    CommandStatus,
    Tag,
)
from kmp_smsd.smpp.framing import Framer
from kmp_smsd.smpp.submit import SubmitSm

TICK_S = 0.1
MAX_PDU_OCTETS = 70_000

_BINDS = (CommandId.BIND_RECEIVER, CommandId.BIND_TRANSMITTER, CommandId.BIND_TRANSCEIVER)


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
    nacks: int = 0  # generic_nack from the ESME
    submits: int = 0  # submit_sm from the ESME, however answered


class _Mo:
    """A stored message."""

    __slots__ = ("attempts", "body", "done", "sent_at")

    def __init__(self, body: bytes, done: Deferred[int] | None) -> None:
        self.body = body
        self.done = done
        self.attempts = 0
        self.sent_at = 0.0


class Smsc:
    """Keeps messages until an ESME accepts them or says never; `reactor` has TCP and time."""

    def __init__(self, settings: SmscSettings, reactor: Any) -> None:
        self.settings = settings
        self.reactor = reactor
        self.counts = Counts()
        self.submitted: list[SubmitSm] = []  # those that were answered with ROK
        self.on_submit: Callable[[SubmitSm], SubmitAnswer] = lambda _: SubmitAnswer()
        self.log = Logger()
        self._stored: deque[_Mo] = deque()
        self._later: deque[tuple[float, _Mo]] = deque()  # Unix seconds when it is due, in order
        self._sessions: list[SmscSession] = []
        self._port: Any = None
        self._tick: DelayedCall | None = None

    def listen(self, port: int = 0, interface: str = "127.0.0.1") -> int:
        """Open the port, 0 for any free one, and return its number."""
        factory = Factory.forProtocol(SmscSession)
        factory.noisy = False
        factory.smsc = self  # type: ignore[attr-defined]  # as Twisted has its protocols find their owner
        self._port = self.reactor.listenTCP(port, factory, interface=interface)
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
        self._stored.append(_Mo(body, done))
        self.pump()
        return done

    def store(self, bodies: Iterable[bytes]) -> None:
        """Store many messages whose answers are only counted."""
        self._stored.extend(_Mo(body, None) for body in bodies)
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

    def gone(self, session: SmscSession, unanswered: list[_Mo]) -> None:
        """A connection ended; what it left unanswered goes to the next session first."""
        self._sessions.remove(session)
        self.count(lost=len(unanswered))
        self._stored.extendleft(reversed(unanswered))
        self.pump()

    def pump(self) -> None:
        """Send stored messages on every session that has room."""
        for session in self._sessions:
            session.pump()

    def take(self, room: int) -> list[_Mo]:
        """Hand out the oldest stored messages."""
        return [self._stored.popleft() for _ in range(min(room, len(self._stored)))]

    def settle(self, answers: list[tuple[_Mo, int]]) -> None:
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

    def unanswered_in_time(self, late: list[_Mo]) -> None:
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


class SmscSession(Protocol):
    """One ESME's connection."""

    transport: Any
    factory: Any

    def connectionMade(self) -> None:
        """Wait for the bind."""
        self.smsc: Smsc = self.factory.smsc
        self.transport.setTcpNoDelay(True)
        self.takes_messages = self.may_submit = False
        self._bound = False
        self._framer = Framer(MAX_PDU_OCTETS)
        self._number = 0
        self._unanswered: dict[int, _Mo] = {}
        self._enquired_at = self.smsc.reactor.seconds()
        self.smsc.opened(self)

    @property
    def unanswered(self) -> int:
        """How many messages are with the ESME."""
        return len(self._unanswered)

    def dataReceived(self, data: bytes) -> None:
        """Act on what the ESME sent."""
        answers: list[tuple[_Mo, int]] = []
        out: list[bytes] = []
        for pdu in self._framer.cut(data):
            _, command_id, status, number = HEADER.unpack_from(pdu)
            if command_id == CommandId.DELIVER_SM_RESP:
                mo = self._unanswered.pop(number, None)
                if mo is not None:
                    answers.append((mo, status))
            else:
                out.append(self._reply(command_id, status, number, pdu))
        if out:
            self.transport.write(b"".join(out))
        if answers:
            self.smsc.settle(answers)
        if self._framer.error is not None:
            self.transport.loseConnection()
        self.pump()

    def connectionLost(self, _reason: Failure | None = None) -> None:
        """Give back what was not answered."""
        self.takes_messages = self.may_submit = False
        self.smsc.gone(self, list(self._unanswered.values()))

    def pump(self) -> None:
        """Fill the window with one write."""
        if not self.takes_messages:
            return
        now = self.smsc.reactor.seconds()
        out = []
        messages = self.smsc.take(self.smsc.settings.window - len(self._unanswered))
        for mo in messages:
            number = self._next_number()
            mo.attempts += 1
            mo.sent_at = now
            self._unanswered[number] = mo
            out.append(HEADER.pack(HEADER_OCTETS + len(mo.body), CommandId.DELIVER_SM, 0, number) + mo.body)
        if out:
            self.smsc.count(sent=len(out))
            self.transport.write(b"".join(out))

    def check(self, now: float) -> None:
        """Look at the timers: `now` in the reactor's seconds."""
        settings = self.smsc.settings
        late = []
        for number, mo in self._unanswered.items():
            if now - mo.sent_at < settings.answer_within_s:
                break  # in order of sending
            late.append(number)
        if late:
            self.smsc.unanswered_in_time([self._unanswered.pop(number) for number in late])
        if self._bound and settings.enquire_link_s is not None and now - self._enquired_at >= settings.enquire_link_s:
            self._enquired_at = now
            self.transport.write(with_header(CommandId.ENQUIRE_LINK, self._next_number()))

    def unbind(self) -> None:
        """Send no more messages and ask the ESME to end."""
        if self._bound:
            self._bound = self.takes_messages = self.may_submit = False
            self.transport.write(with_header(CommandId.UNBIND, self._next_number()))

    def _reply(self, command_id: int, status: int, number: int, pdu: bytes) -> bytes:
        """Return the answer to a PDU, or nothing."""
        if command_id in _BINDS:
            return self._bind(CommandId(command_id), number, pdu)
        if command_id == CommandId.ENQUIRE_LINK:
            return with_header(CommandId.ENQUIRE_LINK_RESP, number)
        if command_id == CommandId.UNBIND:
            self._bound = self.takes_messages = self.may_submit = False
            return with_header(CommandId.UNBIND_RESP, number)
        if command_id == CommandId.SUBMIT_SM:
            return self._submit(number, pdu)
        if command_id == CommandId.UNBIND_RESP:
            self.transport.loseConnection()
        elif command_id == CommandId.ENQUIRE_LINK_RESP:
            self.smsc.count(enquire_links_answered=1)
        elif command_id == CommandId.GENERIC_NACK:
            self.smsc.count(nacks=1)
            self.smsc.log.warn("generic_nack with command_status {status:#x}", status=status)
        elif not command_id & RESPONSE:
            return with_header(CommandId.GENERIC_NACK, number, command_status=CommandStatus.ESME_RINVCMDID)
        return b""

    def _bind(self, command_id: CommandId, number: int, pdu: bytes) -> bytes:
        status = self._judge(command_id, pdu[HEADER_OCTETS:])
        resp = CommandId(command_id | RESPONSE)
        if status != CommandStatus.ESME_ROK:
            self.smsc.count(binds_refused=1)
            return with_header(resp, number, command_status=status)
        self._bound = True
        self.takes_messages = command_id != CommandId.BIND_TRANSMITTER
        self.may_submit = command_id != CommandId.BIND_RECEIVER
        self.smsc.count(binds=1)
        version = Tag.SC_INTERFACE_VERSION.to_bytes(2, "big") + b"\0\x01" + bytes((VERSION_3_4,))
        return with_header(resp, number, b"simulator\0" + version)

    def _submit(self, number: int, pdu: bytes) -> bytes:
        if not self.may_submit:
            return with_header(CommandId.SUBMIT_SM_RESP, number, command_status=CommandStatus.ESME_RINVBNDSTS)
        answer = self.smsc.answer_submit(pdu)
        match answer.manner:
            case Manner.RESPONSE:
                taken = answer.command_status == CommandStatus.ESME_ROK
                message_id = f"{len(self.smsc.submitted):x}\0".encode() if taken else b""
                return with_header(CommandId.SUBMIT_SM_RESP, number, message_id, answer.command_status)
            case Manner.GENERIC_NACK:
                return with_header(CommandId.GENERIC_NACK, number, command_status=answer.command_status)
            case Manner.HANG_UP:
                self.transport.abortConnection()
        return b""

    def _judge(self, command_id: CommandId, body: bytes) -> CommandStatus:
        settings = self.smsc.settings
        fields = body.split(b"\0", 3)
        if self._bound:
            return CommandStatus.ESME_RALYBND
        if command_id == CommandId.BIND_TRANSCEIVER and not settings.takes_transceivers:
            return CommandStatus.ESME_RINVCMDID
        if len(fields) < 4:
            return CommandStatus.ESME_RINVCMDLEN
        if fields[0].decode("latin-1") != settings.system_id:
            return CommandStatus.ESME_RINVSYSID
        if fields[1].decode("latin-1") != settings.password:
            return CommandStatus.ESME_RINVPASWD
        return CommandStatus.ESME_ROK

    def _next_number(self) -> int:
        self._number = self._number % MAX_SEQUENCE_NUMBER + 1
        return self._number


def send_lines(smsc: Smsc, lines: Iterable[str], report: Callable[[str, int], None]) -> Deferred[Any]:
    """Send one message per line, `SOURCE_ADDR TEXT`; blank lines and those that begin with # are passed over.

    `report` is called with each line and its last command_status; the result fires after the last one.
    Raises ValueError with its number for a line that has no text, before anything is sent.
    """
    messages: list[tuple[str, str, str]] = []
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            source_addr, _, text = stripped.partition(" ")
            if not text:
                raise ValueError(f"line {number}: '{stripped}' is not SOURCE_ADDR TEXT")
            messages.append((stripped, source_addr, text))

    def told(status: int, line: str) -> None:
        report(line, status)

    return DeferredList(
        [smsc.send(source_addr, text).addCallback(told, line) for line, source_addr, text in messages],
        fireOnOneErrback=True,
    )
