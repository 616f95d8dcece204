"""The user data header in front of a text (3GPP TS 23.040, section 9.2.3.24)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kmp_smsd.smpp.constants import CommandStatus
from kmp_smsd.smpp.errors import PduError

_CONCATENATED_8_BIT = 0x00
_PORTS_8_BIT = 0x04
_PORTS_16_BIT = 0x05
_CONCATENATED_16_BIT = 0x08


@dataclass(frozen=True, slots=True)
class UserDataHeader:
    """What a header says that matters here. Ports are None where it names none."""

    source_port: int | None = None
    destination_port: int | None = None
    concatenated: bool = False


def split_udh(user_data: bytes) -> tuple[UserDataHeader, bytes]:
    """Return the header and the text behind it. Raises PduError where the header is longer than the text it is in."""
    if not user_data or user_data[0] >= len(user_data):
        raise PduError(CommandStatus.ESME_RINVESMCLASS, "the user data header is longer than the message")
    end = user_data[0] + 1
    source_port = destination_port = None
    concatenated = False
    for identifier, data in _elements(user_data[1:end]):
        if identifier == _PORTS_16_BIT and len(data) == 4:
            destination_port, source_port = int.from_bytes(data[:2], "big"), int.from_bytes(data[2:], "big")
        elif identifier == _PORTS_8_BIT and len(data) == 2:
            destination_port, source_port = data
        elif identifier in (_CONCATENATED_8_BIT, _CONCATENATED_16_BIT) and len(data) in (3, 4):
            concatenated = concatenated or is_part(data[-2], data[-1])
    return UserDataHeader(source_port, destination_port, concatenated), user_data[end:]


def ports_header(*, destination_port: int, source_port: int) -> bytes:
    """Return a header that names both application ports, in 16 bits each (section 9.2.3.24.4)."""
    return bytes((6, _PORTS_16_BIT, 4)) + destination_port.to_bytes(2, "big") + source_port.to_bytes(2, "big")


def is_part(total: int, number: int) -> bool:
    """True where `number` of `total` marks one of several parts. Impossible marks are to be ignored (9.2.3.24.1)."""
    return total > 1 and 1 <= number <= total


def _elements(header: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(header):
        if at + 2 > len(header) or at + 2 + header[at + 1] > len(header):
            raise PduError(CommandStatus.ESME_RINVESMCLASS, "an element of the user data header is longer than it")
        yield header[at], header[at + 2 : at + 2 + header[at + 1]]
        at += 2 + header[at + 1]
