"""What we read from a peer and say to it, as frozen values. Field names are the specification's."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import Struct

from kmp_smsd.smpp.constants import VERSION_3_4, CommandId

Tlv = tuple[int, bytes]


class Message(Struct, frozen=True, gc=False):
    """One deliver_sm (SMPP 3.4, section 4.6.1) or data_sm (section 4.7.1), decoded.

    Only what is read. Addresses are Latin-1 text, as received. The text of a data_sm is in message_payload, so that
    its `short_message` is empty.

    A Struct, as all that is made for each message: a frozen dataclass takes ten times as long. Nor has the garbage
    collector to know it (`gc`): it holds nothing that leads back to it.
    """

    command_id: CommandId
    sequence_number: int
    source_addr_ton: int
    source_addr_npi: int
    source_addr: str
    dest_addr_ton: int
    dest_addr_npi: int
    destination_addr: str
    esm_class: int
    data_coding: int
    short_message: bytes
    tlvs: tuple[Tlv, ...] = ()

    def tlv(self, tag: int) -> list[bytes]:
        """Return the values of every TLV with this tag, in order of arrival."""
        return [value for each, value in self.tlvs if each == tag]

    def __repr__(self) -> str:
        return (
            f"Message({self.command_id.name.lower()} sequence_number={self.sequence_number}"
            f" source_addr={self.source_addr!r} destination_addr={self.destination_addr!r}"
            f" esm_class=0x{self.esm_class:02X} data_coding=0x{self.data_coding:02X}, text hidden)"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Bind:
    """bind_receiver, bind_transmitter or bind_transceiver (SMPP 3.4, section 4.1). Sizes are without the final NUL.

    `password` may have 8 octets, or `MAX_LONG_PASSWORD` where `allow_long_password` says that the SMSC is beyond the
    specification. A value that does not fit is a ValueError here, and never cut.
    """

    command_id: CommandId
    system_id: str  # 15
    password: str = field(default="", repr=False)
    system_type: str = ""  # 12
    interface_version: int = VERSION_3_4
    addr_ton: int = 0
    addr_npi: int = 0
    address_range: str = ""  # 40
    allow_long_password: bool = False

    def __post_init__(self) -> None:
        if self.command_id not in BINDS:
            raise ValueError(f"{self.command_id.name} is not a bind")
        longest_password = MAX_LONG_PASSWORD if self.allow_long_password else MAX_PASSWORD
        sizes = {"system_id": 15, "password": longest_password, "system_type": 12, "address_range": 40}
        for name, size in sizes.items():
            value = getattr(self, name)
            if len(value) > size:
                raise ValueError(f"{name} has {len(value)} octets, at most {size} fit into a bind")
            if "\0" in value or any(ord(character) > 0xFF for character in value):
                raise ValueError(f"{name} has a character that does not fit into a bind")
        for name in ("interface_version", "addr_ton", "addr_npi"):
            if not 0 <= getattr(self, name) <= 0xFF:
                raise ValueError(f"{name} is {getattr(self, name)}, not one octet")


BINDS = frozenset({CommandId.BIND_RECEIVER, CommandId.BIND_TRANSMITTER, CommandId.BIND_TRANSCEIVER})
MAX_PASSWORD = 8
MAX_LONG_PASSWORD = 127


@dataclass(frozen=True, kw_only=True, slots=True)
class BindResp:
    """The body of a bind response (SMPP 3.4, sections 4.1.2 to 4.1.6); `sc_interface_version` is None where absent."""

    system_id: str
    sc_interface_version: int | None
