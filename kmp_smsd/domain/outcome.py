"""Every way in which a message can end (docs/rules.rst)."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What became of one message; the value is what the journal, the tallies and the command line show."""

    RECEIPT = "receipt"
    NOT_FOR_US = "not_for_us"
    INVALID_MDN = "invalid_mdn"
    MALFORMED = "malformed"
    NOT_REGISTERED = "not_registered"
    UNKNOWN_KEY = "unknown_key"
    KEY_NOT_USABLE = "key_not_usable"
    APP_NOT_REGISTERED = "app_not_registered"
    APP_REQUIRED = "app_required"
    ALREADY_BOUND = "already_bound"
    HELD = "held"
    REFUSED = "refused"
    MOVED = "moved"
    BOUND = "bound"
    ERROR = "error"


#: Outcomes after which the SMSC is told never to send the message again.
NEVER_AGAIN = frozenset({Outcome.NOT_FOR_US, Outcome.INVALID_MDN, Outcome.MALFORMED, Outcome.ERROR})
