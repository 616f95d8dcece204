"""submit_sm, the one message that an ESME sends (SMPP 3.4, section 4.4.1), as a frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_ADDRESS = 20  # octets of an address in a deliver_sm or submit_sm, without its NUL
MAX_SHORT_MESSAGE = 254
LONGEST_RELATIVE_S = 30 * 86_400  # what the days of a relative time are certain to hold


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmitSm:
    """A text to one address. Without receipt, to be sent at once. Addresses are Latin-1 text, as received.

    A value that does not fit is a ValueError here, and never cut.
    """

    source_addr_ton: int
    source_addr_npi: int
    source_addr: str  # 20
    dest_addr_ton: int
    dest_addr_npi: int
    destination_addr: str  # 20
    esm_class: int = 0
    validity_period: str = ""  # 16, or empty: as the SMSC likes
    data_coding: int = 0
    short_message: bytes = field(repr=False)  # 254

    def __post_init__(self) -> None:
        sizes = {"source_addr": MAX_ADDRESS, "destination_addr": MAX_ADDRESS, "validity_period": 16}
        for name, size in sizes.items():
            value = getattr(self, name)
            if len(value) > size or "\0" in value or any(ord(character) > 0xFF for character in value):
                raise ValueError(f"{name} does not fit into a submit_sm")
        for name in (
            *("source_addr_ton", "source_addr_npi", "dest_addr_ton", "dest_addr_npi"),
            *("esm_class", "data_coding"),
        ):
            if not 0 <= getattr(self, name) <= 0xFF:
                raise ValueError(f"{name} is {getattr(self, name)}, not one octet")
        if len(self.short_message) > MAX_SHORT_MESSAGE:
            raise ValueError(f"short_message has {len(self.short_message)} octets, not up to {MAX_SHORT_MESSAGE}")


def relative_time(seconds: float) -> str:
    """A time from now on as SMPP writes it (SMPP 3.4, section 7.1.1.2): at least a second, at most 30 days."""
    rest = min(max(int(seconds), 1), LONGEST_RELATIVE_S)
    minutes, second = divmod(rest, 60)
    hours, minute = divmod(minutes, 60)
    day, hour = divmod(hours, 24)
    return f"0000{day:02}{hour:02}{minute:02}{second:02}000R"
