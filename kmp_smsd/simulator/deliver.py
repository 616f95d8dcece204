"""deliver_sm as an SMSC writes it (SMPP 3.4, section 4.6.1), by hand: the simulator sends many."""

from __future__ import annotations

from collections.abc import Iterable
from struct import pack

from kmp_smsd.smpp.codec import HEADER
from kmp_smsd.smpp.constants import HEADER_OCTETS, CommandId, Tag

LONGEST_SHORT_MESSAGE = 254
_UCS2 = 0x08


def deliver_sm_body(
    source_addr: str,
    text: str | bytes,
    *,
    destination_addr: str = "10690000",
    service_type: str = "",
    source_addr_ton: int = 1,
    source_addr_npi: int = 1,
    dest_addr_ton: int = 0,
    dest_addr_npi: int = 1,
    esm_class: int = 0,
    protocol_id: int = 0,
    priority_flag: int = 0,
    data_coding: int = 0,
    tlvs: Iterable[tuple[int, bytes]] = (),
) -> bytes:
    """Return the body of a deliver_sm; a text of more than 254 octets goes into message_payload.

    A `text` in characters is written in Latin-1, or in UCS-2 where `data_coding` says 8.
    """
    octets = text if isinstance(text, bytes) else text.encode("utf-16-be" if data_coding == _UCS2 else "latin-1")
    parameters = list(tlvs)
    if len(octets) > LONGEST_SHORT_MESSAGE:
        parameters.insert(0, (Tag.MESSAGE_PAYLOAD, octets))
        octets = b""
    return b"".join(
        (
            _c_octet_string(service_type),
            bytes((source_addr_ton, source_addr_npi)),
            _c_octet_string(source_addr),
            bytes((dest_addr_ton, dest_addr_npi)),
            _c_octet_string(destination_addr),
            bytes((esm_class, protocol_id, priority_flag)),
            b"\0\0",  # schedule_delivery_time, validity_period
            bytes((0, 0, data_coding, 0, len(octets))),
            octets,
            *(pack(">HH", tag, len(value)) + value for tag, value in parameters),
        )
    )


def with_header(command_id: CommandId, sequence_number: int, body: bytes = b"", command_status: int = 0) -> bytes:
    """Return a PDU (SMPP 3.4, section 3.2)."""
    return HEADER.pack(HEADER_OCTETS + len(body), command_id, command_status, sequence_number) + body


def _c_octet_string(text: str) -> bytes:
    return text.encode("latin-1") + b"\0"
