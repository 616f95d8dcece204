"""Cutting a stream of octets into PDUs (SMPP 3.4, sections 3.2 and 5.1.1)."""

from __future__ import annotations

from struct import Struct

from kmp_smsd.smpp.constants import HEADER_OCTETS
from kmp_smsd.smpp.errors import FramingError

_COMMAND_LENGTH = Struct(">I")


class Framer:
    """Buffers octets and gives back whole PDUs, header included.

    A PDU has at least 16 octets and at most `max_pdu_octets`. Beyond either bound the boundaries are lost: `error` is
    set and nothing more is cut, though the PDUs that came whole before are still given.
    """

    def __init__(self, max_pdu_octets: int) -> None:
        self._max_pdu_octets = max_pdu_octets
        self._rest = b""
        self.error: FramingError | None = None

    @property
    def has_partial_pdu(self) -> bool:
        """True while octets of an unfinished PDU are waiting for the others."""
        return bool(self._rest)

    def cut(self, data: bytes) -> list[bytes]:
        """Return the PDUs that `data` completes."""
        if self.error is not None:
            return []
        stream = self._rest + data if self._rest else data
        length_at = _COMMAND_LENGTH.unpack_from
        pdus: list[bytes] = []
        start, end = 0, len(stream)
        while end - start >= 4:
            (length,) = length_at(stream, start)
            if not HEADER_OCTETS <= length <= self._max_pdu_octets:
                self.error = FramingError(_diagnose(stream[start : start + 8], length, self._max_pdu_octets))
                start = end
                break
            if end - start < length:
                break
            pdus.append(stream[start : start + length])
            start += length
        self._rest = stream[start:]
        return pdus


def _diagnose(octets: bytes, length: int, max_pdu_octets: int) -> str:
    """Say what a peer with an impossible command_length probably is."""
    if octets.startswith((b"HTTP", b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI")):
        guess = "the peer speaks HTTP"
    elif octets[0] in (0x15, 0x16) and octets[1] == 0x03:
        guess = "the peer speaks TLS"
    elif octets.startswith(b"SSH-"):
        guess = "the peer speaks SSH"
    elif octets.startswith(b"\r\n"):
        guess = "the peer speaks a protocol of text lines"
    elif length & 0x7FFFFFFF <= 0x113 and length > max_pdu_octets:
        guess = "this is a command_id: the stream is off by 4 octets"
    elif length < HEADER_OCTETS:
        guess = f"a PDU has at least {HEADER_OCTETS} octets"
    else:
        guess = f"max_pdu_octets is {max_pdu_octets}"
    return f"command_length is 0x{length:08X}: {guess}"
