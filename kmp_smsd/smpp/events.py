"""What a session reports to whoever owns its connection."""

from __future__ import annotations

from dataclasses import dataclass

from kmp_smsd.smpp.constants import CommandId
from kmp_smsd.smpp.pdu import Message


@dataclass(frozen=True, slots=True)
class Bound:
    """The SMSC accepted our bind. `sc_interface_version` is None where it did not tell."""

    command_id: CommandId
    system_id: str
    sc_interface_version: int | None


@dataclass(frozen=True, slots=True)
class BindRefused:
    """The SMSC refused our bind, by its response or, where `nacked`, by a generic_nack. The session is closed."""

    command_id: CommandId
    command_status: int
    nacked: bool = False


@dataclass(frozen=True, slots=True)
class BindUnanswered:
    """The SMSC left our bind without an answer. The session is closed; drop the connection."""

    reason: str


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages in their order of arrival. Each wants exactly one `EsmeSession.answer`."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class SubmitAnswered:
    """The SMSC answered a submit_sm of ours, by its response or a generic_nack. `message_id` may be empty."""

    sequence_number: int
    command_status: int
    message_id: str


@dataclass(frozen=True, slots=True)
class SubmitUnanswered:
    """A submit_sm of ours had no answer in time: whether the SMSC took it is not known (SMPP 3.4, section 7.2)."""

    sequence_number: int


@dataclass(frozen=True, slots=True)
class BadPdu:
    """A PDU that no message came out of. A request has been answered with `command_status`; else that is None."""

    command_id: int
    sequence_number: int
    command_status: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class PeerUnbound:
    """The SMSC wants to end the session. It gets its unbind_resp after our last answer."""


@dataclass(frozen=True, slots=True)
class LinkDead:
    """The peer is silent or no longer makes sense. The session is closed; drop the connection."""

    reason: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The session has ended in good order. Send what is left, then close the connection."""

    reason: str


Event = (
    Bound
    | BindRefused
    | BindUnanswered
    | Messages
    | SubmitAnswered
    | SubmitUnanswered
    | BadPdu
    | PeerUnbound
    | LinkDead
    | Closed
)
