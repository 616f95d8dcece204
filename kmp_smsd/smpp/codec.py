"""PDUs from octets and octets from PDUs.

Messages to us are decoded here, on the raw octets: strictly where a guess could change who sent what, leniently where
nothing depends on it. What we send is encoded by smpplib, except for the responses to messages, of which there are
many, and for submit_sm, whose addresses smpplib would cut without a word.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import Any

from smpplib import command as smpplib_command

from kmp_smsd.smpp.constants import HEADER_OCTETS, RESPONSE, CommandId, CommandStatus, Tag
from kmp_smsd.smpp.errors import PduError
from kmp_smsd.smpp.pdu import MAX_LONG_PASSWORD, Bind, BindResp, Message, Tlv
from kmp_smsd.smpp.submit import SubmitSm

HEADER = Struct(">IIII")  # command_length, command_id, command_status, sequence_number (SMPP 3.4, section 3.2)
_TLV_HEADER = Struct(">HH")  # tag, length (section 3.2.4)
_MESSAGE_RESP = Struct(">IIIIx")  # the body is an empty message_id (section 4.6.2)
_MESSAGE_RESP_OCTETS = _MESSAGE_RESP.size

_MESSAGE_ID = 65  # largest size, its final NUL included
_STRINGS_READ = ("source_addr", "destination_addr")  # nothing depends on the others, but that each is in its place


class _Head:
    """The mandatory parameters in front of a message's text or TLVs: C-octet strings, with integers behind each.

    A field is its name, its largest size with the final NUL, what is answered where that is not in its place, and how
    many octets of integers follow.
    """

    def __init__(self, command_id: CommandId, last: str, *fields: tuple[str, int, CommandStatus, int]) -> None:
        patterns = [
            (rb"([^\0]{0,%d})\0" if name in _STRINGS_READ else rb"[^\0]{0,%d}\0") % (size - 1)
            + (rb"(.{%d})" % integers if integers else b"")
            for name, size, _, integers in fields
        ]
        self._whole = re.compile(b"".join(patterns), re.DOTALL)
        self._fields = fields
        self.command_id = command_id
        self._too_short = f"{command_id.name.lower()} ends before its {last}"

    def read(self, pdu: bytes) -> re.Match[bytes]:
        """Its groups are the addresses and the integers in turn. Raises PduError; nothing is guessed."""
        whole = self._whole.match(pdu, HEADER_OCTETS)
        if whole is None:
            raise self._fault(pdu)
        return whole

    def _fault(self, pdu: bytes) -> PduError:
        at = HEADER_OCTETS
        for name, size, status, integers in self._fields:
            end = pdu.find(b"\0", at, at + size)
            if end < 0:
                return PduError(status, f"{name} does not end within {size} octets")
            at = end + 1 + integers
        return PduError(CommandStatus.ESME_RINVCMDLEN, self._too_short)


_DELIVER_SM = _Head(
    CommandId.DELIVER_SM,
    "sm_length",
    ("service_type", 6, CommandStatus.ESME_RINVSERTYP, 2),  # source_addr_ton, source_addr_npi
    ("source_addr", 21, CommandStatus.ESME_RINVSRCADR, 2),  # dest_addr_ton, dest_addr_npi
    ("destination_addr", 21, CommandStatus.ESME_RINVDSTADR, 3),  # esm_class, protocol_id, priority_flag
    ("schedule_delivery_time", 17, CommandStatus.ESME_RINVSCHED, 0),
    # registered_delivery, replace_if_present_flag, data_coding, sm_default_msg_id, sm_length
    ("validity_period", 17, CommandStatus.ESME_RINVEXPIRY, 5),
)
_DATA_SM = _Head(
    CommandId.DATA_SM,
    "data_coding",
    ("service_type", 6, CommandStatus.ESME_RINVSERTYP, 2),  # source_addr_ton, source_addr_npi
    ("source_addr", 65, CommandStatus.ESME_RINVSRCADR, 2),  # dest_addr_ton, dest_addr_npi
    ("destination_addr", 65, CommandStatus.ESME_RINVDSTADR, 3),  # esm_class, registered_delivery, data_coding
)


def decode_deliver_sm(pdu: bytes, sequence_number: int) -> Message:
    """Decode a whole deliver_sm, header included (SMPP 3.4, section 4.6.1). Raises PduError."""
    head = _DELIVER_SM.read(pdu)
    source, source_addr, dest, destination_addr, flags, last = head.groups()
    text_at = head.end()
    text_ends = text_at + last[4]
    if text_ends > len(pdu):
        raise PduError(
            CommandStatus.ESME_RINVMSGLEN, f"sm_length is {last[4]}, but only {len(pdu) - text_at} octets are left"
        )
    return Message(
        _DELIVER_SM.command_id,
        sequence_number,
        source[0],
        source[1],
        source_addr.decode("latin-1"),
        dest[0],
        dest[1],
        destination_addr.decode("latin-1"),
        flags[0],
        last[2],
        pdu[text_at:text_ends],
        decode_tlvs(pdu, text_ends) if text_ends < len(pdu) else (),
    )


def decode_data_sm(pdu: bytes, sequence_number: int) -> Message:
    """Decode a whole data_sm, header included (SMPP 3.4, section 4.7.1). Raises PduError."""
    head = _DATA_SM.read(pdu)
    source, source_addr, dest, destination_addr, last = head.groups()
    return Message(
        _DATA_SM.command_id,
        sequence_number,
        source[0],
        source[1],
        source_addr.decode("latin-1"),
        dest[0],
        dest[1],
        destination_addr.decode("latin-1"),
        last[0],
        last[2],
        b"",
        decode_tlvs(pdu, head.end()),
    )


def decode_tlvs(octets: bytes, at: int) -> tuple[Tlv, ...]:
    """Walk the optional parameters from `at` to the end (SMPP 3.4, section 3.2.4): all of them, known or not.

    Real SMSCs put a NUL after the text or claim more octets than there are; neither makes the message wrong. From the
    first octet on that is no whole TLV, the rest means nothing.
    """
    tlvs: list[Tlv] = []
    end = len(octets)
    while end - at >= 4:
        tag, length = _TLV_HEADER.unpack_from(octets, at)
        if at + 4 + length > end:
            break
        tlvs.append((tag, octets[at + 4 : at + 4 + length]))
        at += 4 + length
    return tuple(tlvs)


def decode_bind_resp(pdu: bytes) -> BindResp:
    """Decode a bind response, header included (SMPP 3.4, section 4.1.2); never refuses, since nothing depends on it."""
    name, _, rest = pdu[HEADER_OCTETS:].partition(b"\0")
    versions = [value for tag, value in decode_tlvs(rest, 0) if tag == Tag.SC_INTERFACE_VERSION]
    return BindResp(
        system_id=name[:15].decode("latin-1"),
        sc_interface_version=int.from_bytes(versions[0], "big") if versions else None,
    )


def decode_submit_sm_resp(pdu: bytes) -> str:
    """Return the message_id of a submit_sm_resp (SMPP 3.4, section 4.4.2); empty where there is none, or none whole."""
    message_id, end, _ = pdu[HEADER_OCTETS : HEADER_OCTETS + _MESSAGE_ID].partition(b"\0")
    return message_id.decode("latin-1") if end else ""


def encode_submit_sm(submit_sm: SubmitSm, sequence_number: int) -> bytes:
    """Encode a whole submit_sm (SMPP 3.4, section 4.4.1)."""
    body = b"".join(
        (
            b"\0",  # service_type
            bytes((submit_sm.source_addr_ton, submit_sm.source_addr_npi)),
            submit_sm.source_addr.encode("latin-1") + b"\0",
            bytes((submit_sm.dest_addr_ton, submit_sm.dest_addr_npi)),
            submit_sm.destination_addr.encode("latin-1") + b"\0",
            bytes((submit_sm.esm_class, 0, 0)),  # protocol_id, priority_flag
            b"\0",  # schedule_delivery_time: now
            submit_sm.validity_period.encode("latin-1") + b"\0",
            # registered_delivery, replace_if_present_flag, data_coding, sm_default_msg_id, sm_length
            bytes((0, 0, submit_sm.data_coding, 0, len(submit_sm.short_message))),
            submit_sm.short_message,
        )
    )
    return HEADER.pack(HEADER_OCTETS + len(body), CommandId.SUBMIT_SM, 0, sequence_number) + body


def encode_message_resp(command_id: int, command_status: int, sequence_number: int) -> bytes:
    """Encode deliver_sm_resp or data_sm_resp for the request `command_id`."""
    return _MESSAGE_RESP.pack(_MESSAGE_RESP_OCTETS, command_id | RESPONSE, command_status, sequence_number)


def encode_bind(bind: Bind, sequence_number: int) -> bytes:
    """Encode bind_receiver, bind_transmitter or bind_transceiver (SMPP 3.4, section 4.1)."""
    pdu = _LongPasswordBind(bind.command_id.name.lower(), sequence=sequence_number)
    pdu.sequence = sequence_number
    for name in pdu.params_order:
        setattr(pdu, name, getattr(bind, name))
    return bytes(pdu.generate())


def encode_empty(command_id: CommandId, sequence_number: int, command_status: int = 0) -> bytes:
    """Encode a PDU that has no body: enquire_link, unbind, their responses and generic_nack (SMPP 3.4, section 4)."""
    pdu: Any = smpplib_command.factory(command_id.name.lower(), sequence=sequence_number)
    pdu.sequence = sequence_number  # smpplib ignores the argument of its own constructor in some classes
    pdu.status = command_status
    return bytes(pdu.generate())


def encode_refusal(command_id: int, command_status: int, sequence_number: int) -> bytes:
    """Encode an error response to the request `command_id`: it has no body (SMPP 5.0, section 3.2.1.4)."""
    return HEADER.pack(HEADER_OCTETS, command_id | RESPONSE, command_status, sequence_number)


class _LongPasswordBind(smpplib_command.BindTransmitter):  # type: ignore[misc]  # smpplib has no types
    """smpplib cuts a password to eight octets without a word; `Bind` has checked it already."""

    params = smpplib_command.BindTransmitter.params | {
        "password": smpplib_command.Param(type=str, max=MAX_LONG_PASSWORD + 1)
    }
