"""What a terminal's key may be, and its key check value (KCV), by which people compare keys that they never see."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.ciphers.algorithms import AES, SM4
from cryptography.hazmat.primitives.cmac import CMAC

DEFAULT_ALGORITHM: Final = "aes"
KCV_OCTETS: Final = 3


class UnfitKey(ValueError):
    """The algorithm is unknown or the key has the wrong length. The text never holds key material."""


def _cmac(cipher: AES | SM4) -> bytes:
    cmac = CMAC(cipher)
    cmac.update(bytes(16))
    return cmac.finalize()


@dataclass(frozen=True, slots=True)
class Algorithm:
    """The lengths in octets that a key may have, in numbers and in words, and what its KCV is the beginning of."""

    lengths: frozenset[int]
    lengths_in_words: str
    check_value: Callable[[bytes], bytes]


ALGORITHMS: Final[dict[str, Algorithm]] = {
    "aes": Algorithm(frozenset({16, 24, 32}), "16, 24 or 32", lambda key: _cmac(AES(key))),
    "sm4": Algorithm(frozenset({16}), "16", lambda key: _cmac(SM4(key))),
    "hmac": Algorithm(frozenset(range(16, 65)), "16 to 64", lambda key: hmac.digest(key, b"KMP-KCV", "sha256")),
}


def fitting(algorithm: str, key: bytes) -> Algorithm:
    """The algorithm of this name. Raises UnfitKey, with a sentence for people, unless `key` can be a key of it."""
    known = ALGORITHMS.get(algorithm)
    if known is None:
        raise UnfitKey(f"the algorithm is not one of {', '.join(ALGORITHMS)}")
    if len(key) not in known.lengths:
        raise UnfitKey(f"a key of {algorithm} has {known.lengths_in_words} octets, this one has {len(key)}")
    return known


def kcv(algorithm: str, key: bytes) -> str:
    """The key check value: six upper-case hexadecimal digits, safe to show and to print.

    The first 3 octets of AES-CMAC or SM4-CMAC over a block of zeros, or of HMAC-SHA256(key, "KMP-KCV").
    Raises UnfitKey.
    """
    return fitting(algorithm, key).check_value(key)[:KCV_OCTETS].hex().upper()
