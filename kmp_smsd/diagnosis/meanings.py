"""What an outcome means to somebody who reads it at night: its row in docs/rules.rst, a sentence, and what helps."""

from __future__ import annotations

from dataclasses import dataclass

from kmp_smsd.domain.outcome import Outcome

_CONFLICTS = ("the key is bound elsewhere", "another key is bound here")  # as `decide` words them


@dataclass(frozen=True, slots=True)
class Meaning:
    """`row` is that of docs/rules.rst, '' for what has none; `remedy` is '' where nothing has to be done."""

    row: str
    sentence: str
    remedy: str = ""


MEANINGS = {
    Outcome.RECEIPT: Meaning("1", "it was a delivery receipt and no message of a terminal"),
    Outcome.NOT_FOR_US: Meaning(
        "2",
        "its destination is none of ours, or it came from elsewhere than from a terminal",
        "compare [sync] short_codes and [smsc.NAME] destination_port with what the terminal sends to",
    ),
    Outcome.INVALID_MDN: Meaning(
        "3",
        "its sender is no legal number",
        "add the number's range to [numbering], or correct how the link reads numbers (unknown_ton, trunk_prefix)",
    ),
    Outcome.MALFORMED: Meaning(
        "4",
        "its text is no sync payload",
        "the terminal must send K1:KEY-ID in one message: see docs/payload.rst",
    ),
    Outcome.NOT_REGISTERED: Meaning("5", "the number had no registration", "kmp-smsd registrations add {mdn} APP"),
    Outcome.UNKNOWN_KEY: Meaning(
        "6", "no live import had this key ID", "import the vendor's file that has key {key_id}: kmp-smsd keys import"
    ),
    Outcome.KEY_NOT_USABLE: Meaning(
        "7",
        "the key could not be bound: suspended, revoked, destroyed or outside its validity",
        "kmp-smsd keys show {key_id}",
    ),
    Outcome.APP_NOT_REGISTERED: Meaning(
        "8", "the number was not registered for the app that was meant", "kmp-smsd registrations add {mdn} APP"
    ),
    Outcome.APP_REQUIRED: Meaning(
        "9",
        "which app was meant was not clear",
        "let the terminal send K1:KEY-ID:APP, remove the registration that is not meant, or import keys with their app",
    ),
    Outcome.ALREADY_BOUND: Meaning("10", "exactly this binding stood already, and nothing had to be done"),
    Outcome.HELD: Meaning("12", "a person must decide", "kmp-smsd holds list"),
    Outcome.REFUSED: Meaning("12", "it was refused", "kmp-smsd holds list --all"),
    Outcome.MOVED: Meaning("12", "the key was bound, and what stood in its way has ended"),
    Outcome.BOUND: Meaning("13", "the key was bound"),
    Outcome.ERROR: Meaning("", "it alone makes intake fail", "look for message_error in intake's log and report it"),
}
_LATE = {
    Outcome.HELD: Meaning("11", "it was late, and a person must decide", "kmp-smsd holds list"),
    Outcome.REFUSED: Meaning("11", "it was late, and was refused", "kmp-smsd holds list --all"),
}


def meaning(outcome: Outcome, why: str) -> Meaning:
    """That of one journal entry; `why` is what was journalled with it."""
    if outcome in _LATE and not any(conflict in why for conflict in _CONFLICTS):
        return _LATE[outcome]
    return MEANINGS[outcome]
