"""How a link is, for people and metrics, and what it counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from kmp_smsd.smpp.constants import CommandId


class LinkWord(StrEnum):
    """How a link is, in a word."""

    STOPPED = "stopped"
    CONNECTING = "connecting"
    BINDING = "binding"
    BOUND_RECEIVER = "bound as receiver"
    BOUND_TRANSMITTER = "bound as transmitter"
    BOUND_TRANSCEIVER = "bound as transceiver"
    UNBINDING = "unbinding"
    WAITING = "waiting to reconnect"


BOUND_WORDS = {
    CommandId.BIND_RECEIVER: LinkWord.BOUND_RECEIVER,
    CommandId.BIND_TRANSMITTER: LinkWord.BOUND_TRANSMITTER,
    CommandId.BIND_TRANSCEIVER: LinkWord.BOUND_TRANSCEIVER,
}


@dataclass(slots=True)
class Traffic:
    """What changes with each PDU: a new LinkState for each would cost more than the PDU. Times as there."""

    last_received_at: float | None = None
    last_sent_at: float | None = None
    last_message_at: float | None = None
    messages: int = 0
    bad_pdus: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkState:
    """How a link is. Times are Unix seconds, None for never; what is counted is counted since the role's start."""

    name: str
    word: LinkWord
    since: float
    peer: str = ""
    traffic: Traffic = field(default_factory=Traffic)
    binds: int = 0
    bind_failures: Mapping[str, int] = field(default_factory=dict)  # by command_status, or "unanswered"
    reconnects: int = 0  # tries to connect after the first
    last_error: str = ""
    last_error_at: float | None = None
    next_try_at: float | None = None  # while it waits
    enquire_rtt_s: float | None = None

    @property
    def bound(self) -> bool:
        """Whether messages can come, or replies go."""
        return self.word in BOUND_WORDS.values()
