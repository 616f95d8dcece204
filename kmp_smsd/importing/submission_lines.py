"""Requests that a gateway hands in: one JSON object a line (docs/gateway.rst)."""

from __future__ import annotations

from dataclasses import dataclass

from kmp_smsd.domain.payload import parse_payload
from kmp_smsd.domain.request import SyncRequest
from kmp_smsd.importing.json_lines import Canonical, LineFault, check_fields, read_id, read_mdn, read_object

_FIELDS = ("id", "mdn", "payload")


@dataclass(frozen=True, slots=True)
class Submitted:
    """A line: its ID, None where even that could not be read, and what it asks for or why it asks for nothing."""

    id: str | None
    asked: SyncRequest | LineFault


def read_submission(line: bytes | None, canonical: Canonical, *, gateway: str, received_at: int) -> Submitted:
    """What a line asks for. None stands for a line that is too long; `received_at` in Unix milliseconds.

    `canonical` makes an MDN of its text under the numbering plan, or raises ValueError.
    """
    id: str | None = None
    try:
        fields = read_object(line)
        id = read_id(fields)
        check_fields(fields, _FIELDS, "a request")
        mdn = read_mdn(fields, "mdn", canonical)
        text = fields.get("payload")
        if not isinstance(text, str):
            raise LineFault('"payload" must be what the terminal would send by SMS, such as "K1:8A3F"')
        payload = parse_payload(text.encode(errors="replace"))
        if payload is None:
            raise LineFault('"payload" is none: write K1:KEY-ID, K1:KEY-ID:APP-ID or K1:KEY-ID:APP-ID:COUNTER:TAG')
    except LineFault as fault:
        return Submitted(id, fault)
    return Submitted(
        id,
        SyncRequest(
            mdn=mdn,
            key_id=payload.key_id,
            app_id=payload.app_id,
            proof=payload.proof,
            received_at=received_at,
            link=gateway,
        ),
    )
