"""PDUs from octets and octets from PDUs.

Messages to us are decoded here, on the raw octets: strictly where a guess could change who sent what, leniently where
nothing depends on it. What we send is encoded by smpplib, except for the responses to messages, of which there are
many, and for submit_sm, whose addresses smpplib would cut without a word.
"""

from __future__ import annotations

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

# Largest sizes of C-octet strings, their final NUL included.
_SERVICE_TYPE = 6
_DELIVER_ADDRESS = 21
_DATA_ADDRESS = 65
_TIME = 17
_MESSAGE_ID = 65


def decode_deliver_sm(pdu: bytes, sequence_number: int) -> Message:
    """Decode a whole deliver_sm, header included (SMPP 3.4, section 4.6.1). Raises PduError."""
    try:
        service_type, at = _c_octet_string(
            pdu, HEADER_OCTETS, _SERVICE_TYPE, CommandStatus.ESME_RINVSERTYP, "service_type"
        )
        source_addr, at = _c_octet_string(pdu, at + 2, _DELIVER_ADDRESS, CommandStatus.ESME_RINVSRCADR, "source_addr")
        source_at = at
        destination_addr, at = _c_octet_string(
            pdu, at + 2, _DELIVER_ADDRESS, CommandStatus.ESME_RINVDSTADR, "destination_addr"
        )
        flags_at = at
        _, at = _c_octet_string(pdu, at + 3, _TIME, CommandStatus.ESME_RINVSCHED, "schedule_delivery_time")
        _, at = _c_octet_string(pdu, at, _TIME, CommandStatus.ESME_RINVEXPIRY, "validity_period")
        # registered_delivery, replace_if_present_flag, data_coding, sm_default_msg_id, sm_length
        text_at = at + 5
        text_ends = text_at + pdu[at + 4]
        if text_ends > len(pdu):
            raise PduError(
                CommandStatus.ESME_RINVMSGLEN,
                f"sm_length is {pdu[at + 4]}, but only {len(pdu) - text_at} octets are left",
            )
        tlvs, tail = decode_tlvs(pdu, text_ends) if text_ends < len(pdu) else ((), b"")
        return Message(
            CommandId.DELIVER_SM,
            sequence_number,
            service_type,
            pdu[HEADER_OCTETS + len(service_type) + 1],
            pdu[HEADER_OCTETS + len(service_type) + 2],
            source_addr,
            pdu[source_at],
            pdu[source_at + 1],
            destination_addr,
            pdu[flags_at],
            pdu[flags_at + 1],
            pdu[at + 2],
            pdu[text_at:text_ends],
            tlvs,
            tail,
        )
    except IndexError:
        raise PduError(CommandStatus.ESME_RINVCMDLEN, "deliver_sm ends before its sm_length") from None


def decode_data_sm(pdu: bytes, sequence_number: int) -> Message:
    """Decode a whole data_sm, header included (SMPP 3.4, section 4.7.1). Raises PduError."""
    try:
        service_type, ton_at = _c_octet_string(
            pdu, HEADER_OCTETS, _SERVICE_TYPE, CommandStatus.ESME_RINVSERTYP, "service_type"
        )
        source_addr, dest_ton_at = _c_octet_string(
            pdu, ton_at + 2, _DATA_ADDRESS, CommandStatus.ESME_RINVSRCADR, "source_addr"
        )
        destination_addr, at = _c_octet_string(
            pdu, dest_ton_at + 2, _DATA_ADDRESS, CommandStatus.ESME_RINVDSTADR, "destination_addr"
        )
        # esm_class, registered_delivery, data_coding
        data_coding = pdu[at + 2]
        tlvs, tail = decode_tlvs(pdu, at + 3)
        return Message(
            CommandId.DATA_SM,
            sequence_number,
            service_type,
            pdu[ton_at],
            pdu[ton_at + 1],
            source_addr,
            pdu[dest_ton_at],
            pdu[dest_ton_at + 1],
            destination_addr,
            pdu[at],
            0,
            data_coding,
            b"",
            tlvs,
            tail,
        )
    except IndexError:
        raise PduError(CommandStatus.ESME_RINVCMDLEN, "data_sm ends before its data_coding") from None


def decode_tlvs(octets: bytes, at: int) -> tuple[tuple[Tlv, ...], bytes]:
    """Walk the optional parameters from `at` to the end (SMPP 3.4, section 3.2.4): all of them, known or not.

    Real SMSCs put a NUL after the text or claim more octets than there are; neither makes the message wrong. From the
    first octet on that is no whole TLV, the rest is returned apart.
    """
    tlvs: list[Tlv] = []
    end = len(octets)
    while end - at >= 4:
        tag, length = _TLV_HEADER.unpack_from(octets, at)
        if at + 4 + length > end:
            break
        tlvs.append((tag, octets[at + 4 : at + 4 + length]))
        at += 4 + length
    return tuple(tlvs), octets[at:]


def decode_bind_resp(pdu: bytes) -> BindResp:
    """Decode a bind response, header included (SMPP 3.4, section 4.1.2); never refuses, since nothing depends on it."""
    name, _, rest = pdu[HEADER_OCTETS:].partition(b"\0")
    versions = [value for tag, value in decode_tlvs(rest, 0)[0] if tag == Tag.SC_INTERFACE_VERSION]
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


def _c_octet_string(octets: bytes, at: int, max_size: int, status: CommandStatus, name: str) -> tuple[str, int]:
    """Return a C-octet string and where the next field begins. Without its NUL in place nothing is guessed."""
    end = octets.find(b"\0", at, at + max_size)
    if end < 0:
        raise PduError(status, f"{name} does not end within {max_size} octets")
    return octets[at:end].decode("latin-1"), end + 1
