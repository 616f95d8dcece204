"""One ESME's connection to the simulated SMSC: PDUs in and out, and how many may be unanswered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from kmp_smsd.simulator.deliver import with_header
from kmp_smsd.simulator.submit import Manner
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
from kmp_smsd.smpp.pdu import BINDS

if TYPE_CHECKING:
    from kmp_smsd.simulator.smsc import Smsc

MAX_PDU_OCTETS = 70_000


class Mo:
    """A stored message."""

    __slots__ = ("body", "done", "sent_at")

    def __init__(self, body: bytes, done: Deferred[int] | None) -> None:
        self.body = body
        self.done = done
        self.sent_at = 0.0


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
        self._unanswered: dict[int, Mo] = {}
        self._enquired_at = self.smsc.reactor.seconds()
        self.smsc.opened(self)

    @property
    def unanswered(self) -> int:
        """How many messages are with the ESME."""
        return len(self._unanswered)

    def dataReceived(self, data: bytes) -> None:
        """Act on what the ESME sent."""
        answers: list[tuple[Mo, int]] = []
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
        if command_id in BINDS:
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
