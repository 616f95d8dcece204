"""What a terminal is told once its platform has its key, and where (docs/replies.rst)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from msgspec import Struct

from kmp_smsd.domain.outcome import Outcome

_EARNS_A_REPLY = frozenset({Outcome.BOUND, Outcome.MOVED, Outcome.ALREADY_BOUND})


class ReplyTo(Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """Where the answer to a message goes: its addresses as received, and its application ports where it named both."""

    terminal_ton: int
    terminal_npi: int
    terminal: str
    our_ton: int
    our_npi: int
    ours: str
    terminal_port: int | None = None
    our_port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One reply that is to leave now. `expires_at` in Unix milliseconds."""

    number: int
    link: str
    key_id: str
    app_id: str
    to: ReplyTo
    expires_at: int

    @property
    def text(self) -> bytes:
        """At most 103 octets that mean the same in GSM 7-bit, ASCII and Latin-1; no sync request, were it sent back."""
        return f"K1:ok:{self.key_id}:{self.app_id}".encode("ascii")


class ReplyState(StrEnum):
    """What became of a reply; the value is what the command line shows."""

    WAITING = "waiting"  # for the platform's receipt, or for the SMSC to take it
    SENDING = "sending"  # on disk before it leaves, and never sent again from then on, unless the SMSC says not taken
    SENT = "sent"
    REFUSED = "refused"
    UNKNOWN = "unknown"  # left without an answer: the SMSC may have taken it
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class ReplyResult:
    """What became of the reply `number`: WAITING where the SMSC has certainly not taken it and may do so later."""

    number: int
    state: ReplyState
    command_status: int | None = None
    message_id: str = ""


def earns_reply(outcome: Outcome) -> bool:
    """Whether a request that ended so is confirmed to its terminal: the key is bound where the terminal is."""
    return outcome in _EARNS_A_REPLY
