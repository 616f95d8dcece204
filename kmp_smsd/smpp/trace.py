"""One PDU for people: decoded, and in hex. What is secret or private is in neither. Pure.

Nothing is shown unless a field of the specification says that it may be: what cannot be decoded stays hidden. Of a text
and a password only the length is told. Addresses are masked, in hex the same characters of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Protocol

from kmp_smsd.smpp.codec import HEADER
from kmp_smsd.smpp.constants import HEADER_OCTETS, CommandId, Tag, name_of

Mask = Callable[[str], str]  # an address with `*` in the place of each character that is not to be seen

HEX_OCTETS_MAX = 512
FIELDS_MAX = 64


class Direction(StrEnum):
    """Whose PDU it is."""

    RECEIVED = "received"
    SENT = "sent"


class Tracer(Protocol):
    """Whom a session tells each PDU while `is_on`."""

    @property
    def is_on(self) -> bool:
        """Whether it wants to be told now."""

    def tell(self, direction: Direction, pdu: bytes) -> None:
        """Take a whole PDU."""


class _Kind(Enum):
    OCTET = auto()
    STRING = auto()  # of at most `size` octets, its NUL included
    TIME = auto()  # as STRING; shown where it is one: what is shifted by a missing field may be anything
    ADDRESS = auto()
    SECRET = auto()
    TEXT = auto()  # with its length in one octet before it


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    kind: _Kind = _Kind.OCTET
    size: int = 1


_SERVICE_TYPE = _Field("service_type", _Kind.STRING, 6)
_BIND = (
    _Field("system_id", _Kind.STRING, 16),
    _Field("password", _Kind.SECRET, 128),
    _Field("system_type", _Kind.STRING, 13),
    _Field("interface_version"),
    _Field("addr_ton"),
    _Field("addr_npi"),
    _Field("address_range", _Kind.ADDRESS, 41),
)
_BIND_RESP = (_Field("system_id", _Kind.STRING, 16),)
_MESSAGE_RESP = (_Field("message_id", _Kind.STRING, 65),)


def _addresses(size: int) -> tuple[_Field, ...]:
    return (
        _Field("source_addr_ton"),
        _Field("source_addr_npi"),
        _Field("source_addr", _Kind.ADDRESS, size),
        _Field("dest_addr_ton"),
        _Field("dest_addr_npi"),
        _Field("destination_addr", _Kind.ADDRESS, size),
        _Field("esm_class"),
    )


_MESSAGE = (
    _SERVICE_TYPE,
    *_addresses(21),
    _Field("protocol_id"),
    _Field("priority_flag"),
    _Field("schedule_delivery_time", _Kind.TIME, 17),
    _Field("validity_period", _Kind.TIME, 17),
    _Field("registered_delivery"),
    _Field("replace_if_present_flag"),
    _Field("data_coding"),
    _Field("sm_default_msg_id"),
    _Field("short_message", _Kind.TEXT),
)
_DATA_SM = (_SERVICE_TYPE, *_addresses(65), _Field("registered_delivery"), _Field("data_coding"))

# The bodies of SMPP 3.4, section 4, that a link of ours carries. Those of others stay hidden.
_BODIES: Mapping[int, tuple[_Field, ...]] = {
    CommandId.BIND_RECEIVER: _BIND,
    CommandId.BIND_TRANSMITTER: _BIND,
    CommandId.BIND_TRANSCEIVER: _BIND,
    CommandId.BIND_RECEIVER_RESP: _BIND_RESP,
    CommandId.BIND_TRANSMITTER_RESP: _BIND_RESP,
    CommandId.BIND_TRANSCEIVER_RESP: _BIND_RESP,
    CommandId.DELIVER_SM: _MESSAGE,
    CommandId.SUBMIT_SM: _MESSAGE,
    CommandId.DATA_SM: _DATA_SM,
    CommandId.DELIVER_SM_RESP: _MESSAGE_RESP,
    CommandId.SUBMIT_SM_RESP: _MESSAGE_RESP,
    CommandId.DATA_SM_RESP: _MESSAGE_RESP,
}
_SHOWN_TAGS = {tag.value: tag.name.lower() for tag in Tag if tag is not Tag.MESSAGE_PAYLOAD}
_SHOWN_TAG_OCTETS = 2  # a number; what is longer is not what its tag says
_TIME = re.compile("([0-9]{15}[-+R])?")


class _NoSuchField(Exception):
    """The body is not as the specification has it."""


def traced(pdu: bytes, mask: Mask) -> str:
    """`pdu`, whole and with its header, in one line of printable characters; never raises."""
    _, command_id, status, number = HEADER.unpack_from(pdu)
    body = _Body(pdu, mask)
    if command_id in _BODIES and len(pdu) > HEADER_OCTETS:
        body.read(_BODIES[command_id])
    body.hide_rest()
    said = [f"sequence_number={number}", f"command_status={name_of(status)}", *body.said[:FIELDS_MAX]]
    if len(body.said) > FIELDS_MAX:
        said.append(f"and {len(body.said) - FIELDS_MAX} fields more")
    return f"{_name(command_id)}: {', '.join(said)} | {_hex(pdu, body.shown)}"


class _Body:
    """What is told of a body, field by field, and which octets of the PDU may be seen."""

    def __init__(self, pdu: bytes, mask: Mask) -> None:
        self.said: list[str] = []
        self.shown = bytearray(len(pdu))
        self._pdu, self._mask = pdu, mask
        self._at = 0
        self._show(HEADER_OCTETS)

    def read(self, fields: tuple[_Field, ...]) -> None:
        """Read `fields` and the optional parameters behind them, as far as they are what they should be."""
        try:
            for field in fields:
                self._read(field)
            while len(self._pdu) - self._at >= 4:
                self._read_tlv()
        except _NoSuchField as error:
            self.said.append(f"no whole {error}")

    def hide_rest(self) -> None:
        """Tell how much was not read."""
        if self._at < len(self._pdu):
            self.said.append(f"{len(self._pdu) - self._at} octets hidden")

    def _read(self, field: _Field) -> None:
        match field.kind:
            case _Kind.OCTET:
                if self._at >= len(self._pdu):
                    raise _NoSuchField(field.name)
                self.said.append(f"{field.name}=0x{self._pdu[self._at]:02X}")
                self._show(1)
            case _Kind.TEXT:
                self._read_text(field)
            case _:
                self._read_string(field)

    def _read_string(self, field: _Field) -> None:
        end = self._pdu.find(b"\0", self._at, self._at + field.size)
        if end < 0:
            raise _NoSuchField(field.name)
        value = self._pdu[self._at : end].decode("latin-1")
        if field.kind is _Kind.ADDRESS:
            seen = self._mask(value)
        elif field.kind is _Kind.SECRET or (field.kind is _Kind.TIME and not _TIME.fullmatch(value)):
            seen = "*" * len(value)
        else:
            seen = value
        hidden = value != "" and not seen.strip("*")  # a password may be of asterisks itself
        self.said.append(f"{field.name}=" + (f"<{len(value)} octets hidden>" if hidden else repr(seen)))
        for character in seen:
            self._show(1, visible=character != "*")
        self._show(1)

    def _read_text(self, field: _Field) -> None:
        length = self._pdu[self._at] if self._at < len(self._pdu) else 0
        if self._at + 1 + length > len(self._pdu):
            raise _NoSuchField(field.name)
        self._show(1)
        self._show(length, visible=False)
        self.said.append(f"{field.name}=<{length} octets hidden>")

    def _read_tlv(self) -> None:
        tag = int.from_bytes(self._pdu[self._at : self._at + 2], "big")
        length = int.from_bytes(self._pdu[self._at + 2 : self._at + 4], "big")
        if self._at + 4 + length > len(self._pdu):
            raise _NoSuchField("optional parameter")
        self._show(4)
        value = self._pdu[self._at : self._at + length]
        if tag in _SHOWN_TAGS and length <= _SHOWN_TAG_OCTETS:
            self.said.append(f"{_SHOWN_TAGS[tag]}=0x{value.hex().upper()}")
            self._show(length)
        else:
            name = "message_payload" if tag == Tag.MESSAGE_PAYLOAD else f"tag 0x{tag:04X}"
            self.said.append(f"{name}=<{length} octets hidden>")
            self._show(length, visible=False)

    def _show(self, octets: int, *, visible: bool = True) -> None:
        """Pass so many octets."""
        if visible:
            self.shown[self._at : self._at + octets] = b"\1" * octets
        self._at += octets


def _name(command_id: int) -> str:
    try:
        return CommandId(command_id).name.lower()
    except ValueError:
        return f"command_id 0x{command_id:08X}"


def _hex(pdu: bytes, shown: bytearray) -> str:
    """Groups of four octets, `**` for each that is hidden."""
    octets = [f"{octet:02x}" if seen else "**" for octet, seen in zip(pdu, shown, strict=True)][:HEX_OCTETS_MAX]
    groups = " ".join("".join(octets[at : at + 4]) for at in range(0, len(octets), 4))
    return groups if len(pdu) <= HEX_OCTETS_MAX else f"{groups} and {len(pdu) - HEX_OCTETS_MAX} octets more"
