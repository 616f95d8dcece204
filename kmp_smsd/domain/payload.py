"""The sync payload: octets that mean the same in GSM 7-bit, ASCII and Latin-1 (docs/payload.rst)."""

from __future__ import annotations

import re

from msgspec import Struct

#: The longest legal payload, in octets: `K1:` + key ID + `:` + app ID + `:` + counter + `:` + tag.
MAX_PAYLOAD_OCTETS = 3 + 64 + 1 + 32 + 1 + 19 + 1 + 13

_PAYLOAD = re.compile(
    rb"K1:([A-Za-z0-9.-]{1,64})"
    rb"(?::([A-Za-z0-9.-]{1,32})"
    rb"|:([A-Za-z0-9.-]{0,32}):([1-9][0-9]{0,18}):([0-9A-F][0-9A-HJKMNP-TV-Z]{12}))?"
)
_MAX_COUNTER = 2**63 - 1


class Proof(Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """What a terminal presents to prove that it holds the key: a counter that only grows, and a 64-bit tag."""

    counter: int
    tag: str


class Payload(Struct, frozen=True, gc=False):
    """One parsed sync payload."""

    key_id: str
    app_id: str | None = None
    proof: Proof | None = None


def parse_payload(octets: bytes) -> Payload | None:
    """Parse `octets` by the one grammar; None where they are anything else. Nothing is guessed and nothing is cut.

    Trailing NUL, space, CR and LF are dropped: handsets and SMSCs pad with them.
    """
    match = _PAYLOAD.fullmatch(octets.rstrip(b"\0 \r\n"))
    if match is None:
        return None
    key_id, app, proven_app, counter, tag = match.groups()
    if counter is None:
        return Payload(key_id.decode("ascii"), app.decode("ascii") if app else None)
    number = int(counter)
    if number > _MAX_COUNTER:
        return None
    app_id = proven_app.decode("ascii") or None
    return Payload(key_id.decode("ascii"), app_id, Proof(number, tag.decode("ascii")))
