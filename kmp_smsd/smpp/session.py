"""Our end of one SMPP 3.4 session: octets in, events out; no socket, no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from kmp_smsd.smpp import codec
from kmp_smsd.smpp.constants import RESPONSE, CommandId, CommandStatus, name_of
from kmp_smsd.smpp.errors import PduError
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
from kmp_smsd.smpp.framing import Framer
from kmp_smsd.smpp.pdu import Bind, Message
from kmp_smsd.smpp.states import TRANSITIONS, Input, State
from kmp_smsd.smpp.submit import SubmitSm
from kmp_smsd.smpp.timers import Deadline, Due, LinkTimer
from kmp_smsd.smpp.trace import Direction, Tracer
from kmp_smsd.smpp.window import Window

_SMSC_ONLY = frozenset(
    {
        CommandId.BIND_RECEIVER,
        CommandId.BIND_TRANSMITTER,
        CommandId.BIND_TRANSCEIVER,
        CommandId.QUERY_SM,
        CommandId.SUBMIT_SM,
        CommandId.REPLACE_SM,
        CommandId.CANCEL_SM,
        CommandId.SUBMIT_MULTI,
        CommandId.BROADCAST_SM,
        CommandId.QUERY_BROADCAST_SM,
        CommandId.CANCEL_BROADCAST_SM,
    }
)
_DECODERS: Mapping[int, Callable[[bytes, int], Message]] = {
    CommandId.DELIVER_SM: codec.decode_deliver_sm,
    CommandId.DATA_SM: codec.decode_data_sm,
}
_BOUND_AS = {
    CommandId.BIND_RECEIVER: Input.BOUND_AS_RECEIVER,
    CommandId.BIND_TRANSMITTER: Input.BOUND_AS_TRANSMITTER,
    CommandId.BIND_TRANSCEIVER: Input.BOUND_AS_TRANSCEIVER,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionSettings:
    """What a session is told. Times in seconds; `enquire_after_s` None sends no enquire_link."""

    bind: Bind
    bind_timeout_s: float = 30.0
    enquire_after_s: float | None = 30.0
    response_timeout_s: float = 10.0  # the SMSC's time to answer our requests
    pdu_timeout_s: float = 10.0  # from the first octet of a PDU to its last
    unbind_timeout_s: float = 5.0  # our own time to answer what is left once the SMSC unbinds
    max_pdu_octets: int = 70_000  # more than the largest legal message_payload makes


class EsmeSession:
    """Our end of one SMPP 3.4 session, from the connection's beginning to its end.

    Nothing that the peer sends raises: a PDU that is wrong is answered by the book and reported as `BadPdu`, a stream
    that cannot be cut any more ends the session with `LinkDead`. `now` is in monotonic seconds throughout.
    After each call, send what `data_to_send` gives; once `state` is CLOSED after that, close the connection.
    `tracer` is told each PDU, whole, while it is on.
    """

    def __init__(self, settings: SessionSettings, tracer: Tracer | None = None) -> None:
        self.state = State.CLOSED
        self._settings = settings
        self._tracer = tracer
        self._framer = Framer(settings.max_pdu_octets)
        self._window = Window()
        self._out: list[bytes] = []
        self._unanswered: dict[int, Message] = {}  # by identity: a peer may use one sequence_number twice
        self._decoders: Mapping[int, Callable[[bytes, int], Message]] = {}
        self._link_timer = LinkTimer(settings.enquire_after_s, settings.response_timeout_s, last_heard=0.0)
        self._bind_deadline = Deadline(settings.bind_timeout_s)
        self._pdu_deadline = Deadline(settings.pdu_timeout_s)
        self._unbind_deadline = Deadline(settings.unbind_timeout_s)
        self._unbind_number = 0  # of the SMSC's unbind, while we owe the response
        self.enquire_rtt_s: float | None = None  # from our last enquire_link that was answered to its answer

    @property
    def unanswered(self) -> int:
        """How many messages wait for `answer`."""
        return len(self._unanswered)

    @property
    def is_bound(self) -> bool:
        """True from the SMSC's acceptance of our bind until either side unbinds."""
        return self.state in (State.BOUND_RX, State.BOUND_TX, State.BOUND_TRX)

    @property
    def can_submit(self) -> bool:
        """True while `submit` sends something."""
        return (self.state, Input.SUBMIT) in TRANSITIONS

    def connection_made(self, now: float) -> None:
        """Begin: the bind is the first thing on the wire (SMPP 3.4, section 2.2)."""
        self._enter(Input.CONNECTED)
        self._link_timer = self._link_timer.heard(now)
        self._bind_deadline = self._bind_deadline.started(now)
        bind = self._settings.bind
        self._out.append(codec.encode_bind(bind, self._window.open(bind.command_id, now)))

    def connection_lost(self) -> None:
        """End: the connection is gone, and so is every message that was not answered yet."""
        self._close()

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Take octets from the peer, cut anywhere, and return what they mean, in order."""
        events: list[Event] = []
        if self.state is State.CLOSED:
            return events
        pdus = self._framer.cut(data)
        self._trace(Direction.RECEIVED, pdus)
        if pdus:
            self._link_timer = self._link_timer.heard(now)
            self._pdu_deadline = self._pdu_deadline.stopped()
            self._receive_pdus(pdus, now, events)
        self._check_stream(now, events)
        return events

    def answer(self, pairs: Iterable[tuple[Message, int]]) -> None:
        """Queue the response to each message, with the command_status beside it.

        A message that this session did not report, or that is answered already, is passed over.
        """
        unanswered, out, encode = self._unanswered, self._out, codec.encode_message_resp
        for message, status in pairs:
            if unanswered.pop(id(message), None) is not None:
                out.append(encode(message.command_id, status, message.sequence_number))
        if self._may_part:
            self._answer_unbind()

    def submit(self, submit_sm: SubmitSm, now: float) -> int | None:
        """Queue a submit_sm and return its sequence_number; None, and nothing is sent, unless `can_submit`.

        Reported with that number later: SubmitAnswered or SubmitUnanswered, unless the session ends first. Then, too,
        it is not known whether the SMSC took it.
        """
        if not self.can_submit:
            return None
        number = self._window.open(CommandId.SUBMIT_SM, now)
        self._out.append(codec.encode_submit_sm(submit_sm, number))
        return number

    def reading_paused(self) -> None:
        """Know that we do not read: meanwhile no PDU can be completed, and that is not the peer's fault."""
        self._pdu_deadline = self._pdu_deadline.stopped()

    def reading_resumed(self, now: float) -> None:
        """Know that we read again: a PDU that has begun gets its whole time anew."""
        if self._framer.has_partial_pdu:
            self._pdu_deadline = self._pdu_deadline.started(now)

    def data_to_send(self) -> bytes:
        """Return the octets that are ready for the peer, once."""
        self._trace(Direction.SENT, self._out)
        data = b"".join(self._out)
        self._out.clear()
        return data

    def unbind(self, now: float) -> None:
        """Ask the SMSC to end the session. Before the bind was answered, end it at once. Twice is once."""
        if (self.state, Input.UNBIND_SENT) in TRANSITIONS:
            self._enter(Input.UNBIND_SENT)
            self._out.append(codec.encode_empty(CommandId.UNBIND, self._window.open(CommandId.UNBIND, now)))
        elif self.state is State.OPEN:
            self._close()

    def check_timers(self, now: float) -> list[Event]:
        """Do what is due at `now`: call this about twice a second."""
        if self.state is State.CLOSED:
            return []
        if self._pdu_deadline.is_over(now):
            return [self._die(f"a PDU was not complete after {self._settings.pdu_timeout_s:g} s")]
        if self.state is State.OPEN:
            if self._bind_deadline.is_over(now):
                self._close()
                return [BindUnanswered(f"the bind was not answered within {self._settings.bind_timeout_s:g} s")]
            return []
        if self.state is State.UNBOUND:
            if self._unbind_deadline.is_over(now):
                self._answer_unbind()
                return [Closed("unbound by the SMSC; not everything was answered in time")]
            return []
        return self._check_requests(now)

    def _check_requests(self, now: float) -> list[Event]:
        within_s = self._settings.response_timeout_s
        due = self._link_timer.check(now)
        late = self._window.expire(now, within_s)
        if due is Due.DROP:
            return [self._die(f"enquire_link was not answered within {within_s:g} s")]
        events: list[Event] = [SubmitUnanswered(number) for number, request in late if request is CommandId.SUBMIT_SM]
        if any(request is CommandId.UNBIND for _, request in late):
            return [*events, self._die(f"unbind was not answered within {within_s:g} s")]
        if due is Due.ENQUIRE and self.is_bound:
            number = self._window.open(CommandId.ENQUIRE_LINK, now)
            self._link_timer = self._link_timer.enquired(now)
            self._out.append(codec.encode_empty(CommandId.ENQUIRE_LINK, number))
        return events

    def _trace(self, direction: Direction, pdus: Iterable[bytes]) -> None:
        if self._tracer is not None and self._tracer.is_on:
            for pdu in pdus:
                self._tracer.tell(direction, pdu)

    def _check_stream(self, now: float, events: list[Event]) -> None:
        if self.state is State.CLOSED:
            return
        if self._framer.error is not None:
            self._out.append(codec.encode_empty(CommandId.GENERIC_NACK, 0, CommandStatus.ESME_RINVCMDLEN))
            events.append(self._die(str(self._framer.error)))
        elif self._framer.has_partial_pdu and self._pdu_deadline.since is None:
            self._pdu_deadline = self._pdu_deadline.started(now)

    def _receive_pdus(self, pdus: list[bytes], now: float, events: list[Event]) -> None:
        messages: list[Message] = []
        unanswered, header_of = self._unanswered, codec.HEADER.unpack_from
        for pdu in pdus:
            _, command_id, status, number = header_of(pdu)
            decode = self._decoders.get(command_id)
            fault: PduError | None = None
            if decode is not None:
                try:
                    message = decode(pdu, number)
                except PduError as error:
                    fault = error
                else:
                    unanswered[id(message)] = message
                    messages.append(message)
                    continue
            if messages:
                events.append(Messages(tuple(messages)))
                messages.clear()
            if fault is not None:
                reason = f"{CommandId(command_id).name.lower()}: {fault}"
                self._refuse(command_id, number, fault.command_status, reason, events)
            elif command_id & RESPONSE:
                self._receive_response(pdu, command_id, status, number, now, events)
            else:
                self._receive_request(command_id, number, now, events)
            if self.state is State.CLOSED:
                return
        if messages:
            events.append(Messages(tuple(messages)))

    def _receive_request(self, command_id: int, number: int, now: float, events: list[Event]) -> None:
        if command_id == CommandId.ENQUIRE_LINK:  # in every state (SMPP 5.0, section 2.4)
            self._out.append(codec.encode_empty(CommandId.ENQUIRE_LINK_RESP, number))
        elif command_id == CommandId.ALERT_NOTIFICATION:  # has no response (SMPP 3.4, section 4.12)
            return
        elif command_id == CommandId.UNBIND and (self.state, Input.UNBIND) in TRANSITIONS:
            self._enter(Input.UNBIND)
            self._unbind_number = number
            self._unbind_deadline = self._unbind_deadline.started(now)
            events.append(PeerUnbound())
            self._part(events)
        elif command_id in (CommandId.DELIVER_SM, CommandId.DATA_SM, CommandId.UNBIND):
            reason = f"{CommandId(command_id).name.lower()} while {self.state.name}"
            self._refuse(command_id, number, CommandStatus.ESME_RINVBNDSTS, reason, events)
        elif command_id in _SMSC_ONLY:
            reason = f"{CommandId(command_id).name.lower()} is for an SMSC"
            self._refuse(command_id, number, CommandStatus.ESME_RINVBNDSTS, reason, events)
        else:  # SMPP 3.4, section 3.3
            status = CommandStatus.ESME_RINVCMDID
            self._out.append(codec.encode_empty(CommandId.GENERIC_NACK, number, status))
            events.append(BadPdu(command_id, number, status, f"unknown command_id 0x{command_id:08X}"))

    def _receive_response(
        self, pdu: bytes, command_id: int, status: int, number: int, now: float, events: list[Event]
    ) -> None:
        if command_id == CommandId.GENERIC_NACK and self.state is State.OPEN:  # whatever the number, our bind is meant
            events.append(self._refused_bind(status, nacked=True))
            return
        answered = self._window.match(command_id, number)
        if answered is None:
            reason = f"a response (command_status {name_of(status)}) to nothing that we asked"
            events.append(BadPdu(command_id, number, None, reason))
            return
        request, sent_at = answered
        if request in _BOUND_AS:
            self._receive_bind_resp(pdu, request, status, events)
        elif request is CommandId.SUBMIT_SM:
            events.append(SubmitAnswered(number, status, codec.decode_submit_sm_resp(pdu)))
            self._part(events)
        elif request is CommandId.ENQUIRE_LINK:
            self.enquire_rtt_s = now - sent_at
        elif request is CommandId.UNBIND and self.state in (State.UNBINDING, State.UNBINDING_TX):
            self._close(Input.UNBIND_ANSWERED)
            events.append(Closed("unbound by us"))

    def _receive_bind_resp(self, pdu: bytes, request: CommandId, status: int, events: list[Event]) -> None:
        if status != CommandStatus.ESME_ROK:
            events.append(self._refused_bind(status))
            return
        self._enter(_BOUND_AS[request])
        self._bind_deadline = self._bind_deadline.stopped()
        body = codec.decode_bind_resp(pdu)
        events.append(Bound(request, body.system_id, body.sc_interface_version))

    def _refused_bind(self, status: int, *, nacked: bool = False) -> BindRefused:
        self._close()
        return BindRefused(self._settings.bind.command_id, status, nacked)

    def _refuse(self, command_id: int, number: int, status: int, reason: str, events: list[Event]) -> None:
        encode = codec.encode_message_resp if command_id in _DECODERS else codec.encode_refusal
        self._out.append(encode(command_id, status, number))
        events.append(BadPdu(command_id, number, status, reason))

    @property
    def _may_part(self) -> bool:
        """Whether the SMSC unbound, and neither side owes the other an answer but to that."""
        return self.state is State.UNBOUND and not self._unanswered and not self._window.holds(CommandId.SUBMIT_SM)

    def _part(self, events: list[Event]) -> None:
        if self._may_part:
            self._answer_unbind()
            events.append(Closed("unbound by the SMSC"))

    def _answer_unbind(self) -> None:
        self._out.append(codec.encode_empty(CommandId.UNBIND_RESP, self._unbind_number))
        self._close(Input.UNBIND_ANSWERED)

    def _die(self, reason: str) -> LinkDead:
        self._close()
        return LinkDead(reason)

    def _close(self, why: Input = Input.LOST) -> None:
        self._enter(why)
        self._unanswered.clear()

    def _enter(self, happened: Input) -> None:
        self.state = TRANSITIONS[self.state, happened]
        self._decoders = _DECODERS if (self.state, Input.MESSAGE) in TRANSITIONS else {}
