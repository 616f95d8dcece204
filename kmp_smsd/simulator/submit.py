"""submit_sm as an SMSC reads it (SMPP 3.4, section 4.4.1), and how the simulated one answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from kmp_smsd.smpp.constants import HEADER_OCTETS, CommandStatus
from kmp_smsd.smpp.submit import SubmitSm


class Manner(Enum):
    """How an SMSC reacts to a submit_sm."""

    RESPONSE = auto()
    GENERIC_NACK = auto()
    SILENCE = auto()
    HANG_UP = auto()  # without an answer


@dataclass(frozen=True, slots=True)
class SubmitAnswer:
    """One reaction."""

    command_status: int = CommandStatus.ESME_ROK
    manner: Manner = Manner.RESPONSE


def decode_submit_sm(pdu: bytes) -> SubmitSm:
    """Decode a whole submit_sm, header included. Raises ValueError where it is not one."""
    try:
        at = HEADER_OCTETS
        _, at = _c_octet_string(pdu, at)  # service_type
        source_at = at
        source_addr, at = _c_octet_string(pdu, at + 2)
        dest_at = at
        destination_addr, at = _c_octet_string(pdu, at + 2)
        flags_at = at
        _, at = _c_octet_string(pdu, at + 3)  # schedule_delivery_time
        validity_period, at = _c_octet_string(pdu, at)
        text_at = at + 5
        if text_at + pdu[at + 4] != len(pdu):
            raise ValueError("sm_length does not agree with command_length")
        return SubmitSm(
            source_addr_ton=pdu[source_at],
            source_addr_npi=pdu[source_at + 1],
            source_addr=source_addr,
            dest_addr_ton=pdu[dest_at],
            dest_addr_npi=pdu[dest_at + 1],
            destination_addr=destination_addr,
            esm_class=pdu[flags_at],
            validity_period=validity_period,
            data_coding=pdu[at + 2],
            short_message=pdu[text_at:],
        )
    except IndexError:
        raise ValueError("submit_sm ends before its sm_length") from None


def _c_octet_string(octets: bytes, at: int) -> tuple[str, int]:
    end = octets.index(b"\0", at)
    return octets[at:end].decode("latin-1"), end + 1
