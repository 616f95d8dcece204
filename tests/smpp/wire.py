"""PDUs as octets, written here by hand and by nobody's encoder."""

from __future__ import annotations

from struct import pack, unpack_from

ADDRESSES = b"\x01\x018613912345678\x00\x00\x0110690000\x00"
BIND_BODY = b"esme\x00secret\x00type\x00\x34\x01\x01^1069\x00"
SUBMIT_TAIL = b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x04K1:A"
AREA = b"\x06\x06\x00\x03\x01de"  # broadcast_area_identifier

# A body for every operation that may come along, by command_id.
BODIES = {
    0x00000001: BIND_BODY,
    0x00000002: BIND_BODY,
    0x00000009: BIND_BODY,
    0x80000001: b"smsc\x00\x02\x10\x00\x01\x34",
    0x80000002: b"smsc\x00",
    0x80000009: b"smsc\x00\x02\x10\x00\x01\x50",
    0x00000003: b"id-1\x00\x01\x0112345\x00",
    0x80000003: b"id-1\x00\x00\x02\x00",
    0x00000004: b"\x00" + ADDRESSES + SUBMIT_TAIL,
    0x80000004: b"id-1\x00",
    0x00000005: b"\x00" + ADDRESSES + SUBMIT_TAIL,
    0x80000005: b"\x00",
    0x00000006: b"",
    0x80000006: b"",
    0x00000007: b"id-1\x00\x01\x0112345\x00\x00\x00\x00\x00\x04text",
    0x80000007: b"",
    0x00000008: b"\x00id-1\x00" + ADDRESSES,
    0x80000008: b"",
    0x0000000B: b"smsc\x00secret\x00",
    0x00000015: b"",
    0x80000015: b"",
    0x00000021: b"\x00\x01\x0112345\x00\x02\x01\x01\x01678\x00\x02list\x00" + SUBMIT_TAIL,
    0x80000021: b"id-1\x00\x01\x01\x01678\x00\x00\x00\x00\x0b",
    0x00000102: b"\x01\x0112345\x00\x00\x01678\x00",
    0x00000103: b"\x00" + ADDRESSES + b"\x00\x00\x00\x04\x24\x00\x04K1:A",
    0x80000103: b"\x00",
    0x00000111: b"\x00\x01\x0112345\x00id-1\x00\x00\x00\x00\x00\x00\x00" + AREA,
    0x80000111: b"id-1\x00",
    0x00000112: b"id-1\x00\x01\x0112345\x00",
    0x80000112: b"id-1\x00",
    0x00000113: b"\x00id-1\x00\x01\x0112345\x00",
    0x80000113: b"",
    0x80000000: b"",
}


def pdu(command_id, sequence_number, body=None, *, status=0):
    body = BODIES[command_id] if body is None else body
    return pack(">IIII", 16 + len(body), command_id, status, sequence_number) + body


def headers(octets):
    """Return (command_id, command_status, sequence_number) of each PDU; fails where they do not add up."""
    found = []
    while octets:
        length, *header = unpack_from(">IIII", octets)
        assert 16 <= length <= len(octets)
        found.append(tuple(header))
        octets = octets[length:]
    return found


def reply_to(command_id, sequence_number):
    """Return the (command_id, command_status, sequence_number) that a bound ESME owes for this, or None.

    A command_status of None stands for any: it depends on the body.
    """
    if command_id & 0x80000000 or command_id == 0x102:
        return None
    if command_id in (0x15, 0x06):
        return command_id | 0x80000000, 0, sequence_number
    if command_id in (0x05, 0x103):
        return command_id | 0x80000000, None, sequence_number
    if command_id in BODIES and command_id != 0x0B:
        return command_id | 0x80000000, 0x04, sequence_number
    return 0x80000000, 0x03, sequence_number
