"""What the options of a link may be, as far as numbers of SMPP and of telephony have a meaning."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, Field

from kmp_smsd.config.section import written_as


def _ip_address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError(f'"{value}" is not an IP address') from None


def _status(value: int) -> int:
    if value == 0x65:
        raise ValueError(
            "0x65 (ESME_RX_P_APPN) tells the SMSC to give up all messages queued for our short code: "
            "write 0x66 for one message, 0x64 for later"
        )
    return value


def _not_ok(value: int) -> int:
    if value == 0:
        raise ValueError("0x00 tells the SMSC that the message is stored, and it would be lost")
    return value


def _interface_version(value: int) -> int:
    if value not in (0x33, 0x34, 0x50):
        raise ValueError("write 0x33, 0x34 or 0x50, with the 0x: in decimal they are other numbers")
    return value


def _npi(value: int) -> int:
    if value == 6:
        raise ValueError("6 marks an IMSI (E.212), which is never a directory number")
    return value


Ascii = Annotated[str, written_as(r"[ -~]*", "printable ASCII characters")]
IpAddress = Annotated[str, AfterValidator(_ip_address)]
Port = Annotated[int, Field(ge=0, le=65535)]
Octet = Annotated[int, Field(ge=0, le=255)]
Npi = Annotated[Octet, AfterValidator(_npi)]
InterfaceVersion = Annotated[int, AfterValidator(_interface_version)]
Status = Annotated[int, Field(ge=0, le=0xFFFFFFFF), AfterValidator(_status)]
TemporaryStatus = Annotated[Status, AfterValidator(_not_ok)]
DataCoding = Annotated[str, written_as("(0|[1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-5])", "a data_coding as 0 to 255")]
InternationalPrefix = Annotated[str, written_as(r"\+|0[0-9]{1,3}", '"+", or 2 to 4 digits of which the first is 0')]
