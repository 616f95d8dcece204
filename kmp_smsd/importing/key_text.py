"""Keys as text, hexadecimal or base64: one of them in a whole file."""

from __future__ import annotations

import base64
import binascii
from enum import StrEnum

_STANDARD = str.maketrans("-_", "+/")


class KeyEncoding(StrEnum):
    """How a file writes its keys. BASE64 takes both alphabets of RFC 4648, with padding or without."""

    HEX = "hex"
    BASE64 = "base64"


class KeyText:
    """Reads the keys of one file.

    Where the encoding is not given, the first key decides for all: hexadecimal where it consists of hexadecimal digits
    alone, else base64. A key in base64 consists of hexadecimal digits alone once in 10^10 keys; where that happens, the
    file is refused with a sentence that says to name the encoding, since a key read in the wrong one could pass.
    """

    def __init__(self, encoding: KeyEncoding | None) -> None:
        self._encoding = encoding
        self._given = encoding is not None

    def octets(self, text: str) -> bytes:
        """The key. Raises ValueError with a sentence that shows nothing of it."""
        as_hex = _from_hex(text)
        if self._encoding is None:
            if as_hex is None and _from_base64(text) is None:
                raise ValueError("the key is neither hexadecimal nor base64")
            self._encoding = KeyEncoding.BASE64 if as_hex is None else KeyEncoding.HEX
        if self._encoding is KeyEncoding.HEX:
            if as_hex is None:
                raise ValueError(f"the key is not hexadecimal, two digits for each octet{self._hint()}")
            return as_hex
        if as_hex is not None and not self._given:
            raise ValueError(f"the key could be hexadecimal{self._hint()}")
        octets = _from_base64(text)
        if octets is None:
            raise ValueError(f"the key is not base64{self._hint()}")
        return octets

    def _hint(self) -> str:
        if self._given:
            return ""
        return f", but the first key of the file is {self._encoding}; write all alike, or name the encoding"


def _from_hex(text: str) -> bytes | None:
    try:
        return binascii.unhexlify(text)
    except ValueError:  # binascii.Error is one, and so is text that is not ASCII
        return None


def _from_base64(text: str) -> bytes | None:
    standard = text.translate(_STANDARD)
    bare = standard.rstrip("=")
    padded = bare + "=" * (-len(bare) % 4)
    if standard not in (bare, padded):
        return None
    try:
        octets = base64.b64decode(padded, validate=True)
    except ValueError:
        return None
    # Bits behind the last octet are zeros, else a character is wrong or missing.
    return octets if base64.b64encode(octets).decode("ascii") == padded else None
