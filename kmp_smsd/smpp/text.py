"""What a message carries: its user data, and whether it is a message at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from kmp_smsd.smpp.constants import UDHI, CommandStatus, Tag
from kmp_smsd.smpp.errors import PduError
from kmp_smsd.smpp.pdu import Message
from kmp_smsd.smpp.udh import UserDataHeader, is_part, split_udh

_RECEIPT_TEXT = re.compile(rb"\s*id:\S*\s.*\bstat:[A-Z]", re.IGNORECASE | re.DOTALL)  # SMPP 3.4, appendix B
_BIG_ENDIAN_MARK, _LITTLE_ENDIAN_MARK = b"\xfe\xff", b"\xff\xfe"


class Alphabet(StrEnum):
    """How a text is written that has two octets for each character."""

    UCS2 = "ucs-2"
    UCS2_LITTLE_ENDIAN = "ucs-2-le"


# By data_coding (SMPP 3.4, section 5.2.19); any other alphabet, for which None stands, has one octet for a character.
DATA_CODINGS: Mapping[int, Alphabet | None] = {0x08: Alphabet.UCS2}


class UserData(Struct, frozen=True, gc=False):
    """The octets of a text and what its header or TLVs say about it. Ports are None where none is named."""

    octets: bytes
    source_port: int | None = None
    destination_port: int | None = None
    concatenated: bool = False

    def __repr__(self) -> str:
        return (
            f"UserData(source_port={self.source_port} destination_port={self.destination_port}"
            f" concatenated={self.concatenated}, octets hidden)"
        )


def reads_like_receipt(message: Message) -> bool:
    """True where the text is that of a delivery receipt: some SMSCs mark receipts by nothing else.

    TLVs are no proof, since other SMSCs put those of a receipt on ordinary messages.
    """
    return any(map(_RECEIPT_TEXT.match, (message.short_message, *message.tlv(Tag.MESSAGE_PAYLOAD))))


def read_user_data(message: Message, alphabets: Mapping[int, Alphabet | None] = DATA_CODINGS) -> UserData:
    """Return what the terminal sent, without its header and with UCS-2 written as UTF-8.

    A UCS-2 text that is not ASCII so has octets above 0x7F, and one that is no UCS-2 has some too: neither can be
    taken for an ASCII text. Raises PduError with the command_status that such a message deserves.
    """
    is_plain = not (message.esm_class & UDHI or message.tlvs)  # as nearly every message
    data = UserData(message.short_message) if is_plain else _read_all(message)
    alphabet = alphabets.get(message.data_coding)
    return data if alphabet is None else replace(data, octets=_without_ucs2(data.octets, alphabet))


def _read_all(message: Message) -> UserData:
    octets = _user_data(message)
    has_header = bool(message.esm_class & UDHI)
    header = UserDataHeader()
    if has_header:
        header, octets = split_udh(octets)
    in_parts = _is_part_by_tlvs(message)
    if has_header and in_parts:
        raise PduError(CommandStatus.ESME_RINVOPTPARAMVAL, "sar_ parameters beside a user data header")
    return UserData(
        octets=octets,
        source_port=_one("source_port", header.source_port, _integer(message, Tag.SOURCE_PORT)),
        destination_port=_one("destination_port", header.destination_port, _integer(message, Tag.DESTINATION_PORT)),
        concatenated=header.concatenated or in_parts,
    )


def _user_data(message: Message) -> bytes:
    """Return short_message or message_payload; both only where they are equal (SMPP 3.4, section 4.6.1)."""
    texts = {text for text in (message.short_message, *message.tlv(Tag.MESSAGE_PAYLOAD)) if text}
    if len(texts) > 1:
        raise PduError(CommandStatus.ESME_RX_R_APPN, "short_message and message_payload differ")
    return texts.pop() if texts else b""


def _without_ucs2(octets: bytes, alphabet: Alphabet) -> bytes:
    if octets.startswith((_BIG_ENDIAN_MARK, _LITTLE_ENDIAN_MARK)):
        little, octets = octets.startswith(_LITTLE_ENDIAN_MARK), octets[2:]
    else:
        little = alphabet is Alphabet.UCS2_LITTLE_ENDIAN
    return octets.decode("utf-16-le" if little else "utf-16-be", "replace").encode()


def _is_part_by_tlvs(message: Message) -> bool:
    """True where all three sar_ parameters mark one of several parts (SMPP 3.4, sections 5.3.2.22 to 24)."""
    marks = [_integer(message, tag) for tag in (Tag.SAR_MSG_REF_NUM, Tag.SAR_TOTAL_SEGMENTS, Tag.SAR_SEGMENT_SEQNUM)]
    _, total, number = marks
    return None not in marks and is_part(total or 0, number or 0)


def _integer(message: Message, tag: Tag) -> int | None:
    """Return an integer TLV of any width: SMSCs send ports in 1, 2 and 4 octets."""
    found = [int.from_bytes(value, "big") for value in message.tlv(tag)]
    return _one(tag.name.lower(), *found)


def _one(name: str, *values: int | None) -> int | None:
    """Return the value that all of these agree on, or None where nothing is said."""
    told = {value for value in values if value is not None}
    if len(told) > 1:
        raise PduError(CommandStatus.ESME_RINVOPTPARAMVAL, f"{name} is given twice and differs")
    value = told.pop() if told else None
    if value is not None and value > 0xFFFF:
        raise PduError(CommandStatus.ESME_RINVOPTPARAMVAL, f"{name} has more than two octets")
    return value
