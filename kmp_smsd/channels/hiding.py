"""What of a peer's text may be shown: plain words, and so few numbers that they cannot be a key. Pure.

A receiver that fails may quote what it was given in any spelling: a traceback, a hex dump, a list of numbers. There is
no end to spellings, so none is looked for. Plain words are free; all else has a weight. A text that weighs too much
keeps its prose alone.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Final

from kmp_smsd.domain.shown import GAP

REPEATS_A_KEY: Final = "<hidden: it repeats a key>"
SHOWN_CHARACTERS: Final = 200
EXAMINED_CHARACTERS: Final = 2_000  # of a peer's text: what comes later is never shown
KEYS_KEPT: Final = 200  # for each platform, those sent last: looked for in what it says, on whatever connection
ALLOWANCE: Final = 7  # 4 octets weigh 8 or more, whether in hex, base64 or decimal numbers

_TELLING_OCTETS: Final = 4  # of a key, in a row
_UNPRINTABLE = re.compile(r"[^ -~]+")
_GAPS = re.compile(r"\.{3}(?:[^A-Za-z0-9]*\.{3})?")
_PIECE = re.compile(r"[A-Za-z0-9]+|[^A-Za-z0-9]+")
_PUNCTUATION: Final = frozenset(" !\"'()*+,-./:;<=>?@[]_{|}")
_NO_JOINT: Final = frozenset("!*+;<>?{|}")  # of it, what joins two words without a space in encodings alone
_PUNCTUATION_MAX: Final = 6  # in a row
_FREE: Final = re.escape("".join(sorted(_PUNCTUATION - _NO_JOINT)))
_JOINED = re.compile(rf"[A-Za-z0-9][{_FREE}]*+[^A-Za-z0-9{_FREE}][^A-Za-z0-9]*+[A-Za-z0-9]")
# Subscribers' numbers begin with a country code: the rest is for nobody but the platform and us.
_LONG_NUMBER = re.compile(r"([0-9]{4})[0-9]{3,}")
# One word, or up to five in CamelCase, with a short number at its end, as in python3. Whatever encodes 16 octets in
# letters alone needs 22 of them: none is that long unless it looks like several words. None has a letter three times or
# six consonants in a row.
_WORD = re.compile(
    r"""(?=.{2,34}\Z) (?!.*(.)\1\1) (?!.*[^0-9AEIOUYaeiouy]{6})
    (?: [A-Za-z][a-z]{1,15} | [A-Z]{2,16} | (?:[A-Z]{2,4}|[a-z]{2,16})? (?:[A-Z][a-z]{2,15}){1,4} [A-Z]{0,4} )
    (?P<number> [0-9]{0,2} )""",
    re.VERBOSE,
)
# Words as they stand between spaces: in quotes, in parentheses, as a path, a dotted name, at the end of a sentence.
_PROSE = re.compile(r"""["'(\[</]*[A-Za-z]+(?:[-/._:]{1,2}[A-Za-z]+)*[]"')>,.:;!?]*""")
# Letters that may be octets in hex, as in 0xab, and those among them that people write.
_HEX = re.compile(r"[Xx]?[A-Fa-f]+[0-9]*")
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")  # the alphabet of base64 for that of base64url
_BASE85: Final = (  # the alphabets of Ascii85 and of RFC 1924
    bytes(range(33, 118)),
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~",
)
_ENGLISH: Final = frozenset({"a", "add", "added", "bad", "be", "db"})


def presentable(
    text: str, keys: Iterable[bytes] = (), *, allowance: int = ALLOWANCE, characters: int = SHOWN_CHARACTERS
) -> str:
    """`text` of a peer, fit for a log and the database: one line of printable ASCII, cut to `characters`.

    A long number keeps its first four digits. Where the text weighs more than `allowance`, all that is not
    prose gives way to an ellipsis. Where it has 4 octets in a row of one of `keys`, nothing of it is shown.
    """
    text = text[:EXAMINED_CHARACTERS]
    if _repeats(text, keys):
        return REPEATS_A_KEY
    chunks = _LONG_NUMBER.sub(rf"\1{GAP}", text).split()
    if weight(" ".join(chunks)) > allowance:
        chunks = [chunk if _PROSE.fullmatch(chunk) and not weight(chunk) else GAP for chunk in chunks]
    # Hidden before it is cut: a cut could leave half a key that is no longer known as one.
    return _GAPS.sub(GAP, _UNPRINTABLE.sub(GAP, " ".join(chunks)))[:characters]


def quotes(shown: str, keys: Iterable[bytes]) -> bool:
    """Whether 4 octets in a row of one of `keys` stand in `shown` as they are, in base64 or in base 85.

    That is how a receiver got them, or stores them: all that is looked for in very many keys, 4 us for each. Where
    there are few, `presentable` looks for more.
    """
    octets = shown.encode("latin-1", "replace")
    raw = {*_cut(octets, _TELLING_OCTETS), *_from_base85(octets)}
    encoded = set(_cut(octets.translate(_STANDARD).lower(), 6))
    return any(
        not raw.isdisjoint(_cut(key, _TELLING_OCTETS)) or not encoded.isdisjoint(_cut(base64.b64encode(key).lower(), 6))
        for key in keys
    )


def weight(text: str) -> int:
    """What `text` takes of an allowance: two at least for each number, and for each character that is no plain word.

    Words are none where they are joined as in encodings alone.
    """
    joined = sum(2 * len(chunk) for chunk in text.split() if _JOINED.search(chunk))
    return joined + sum(_weight(piece) for piece in _PIECE.findall(f" {text} "))


def _weight(piece: str) -> int:
    if not piece.isalnum():
        free = _PUNCTUATION if " " in piece else _PUNCTUATION - _NO_JOINT
        strange = sum(character not in free for character in piece)
        return 2 * (strange or len(piece) * (len(piece.replace(GAP, "")) > _PUNCTUATION_MAX))
    if piece.isdigit():
        return max(2, len(piece))
    if piece.lower() in _ENGLISH:
        return 0
    word = None if _HEX.fullmatch(piece) else _WORD.fullmatch(piece)
    return 2 * len(piece if word is None else word["number"])


def _repeats(text: str, keys: Iterable[bytes]) -> bool:
    """Whether letters, which are free in plain words, spell 4 octets of a key: itself, or encoded."""
    as_it_is = text.encode("latin-1", "replace")
    octets = as_it_is.lower()
    squeezed = _squeezed(octets)
    said = {
        size: {piece for whole in (octets, squeezed) for way in (whole, whole[::-1]) for piece in _cut(way, size)}
        for size in (4, 6, 7, 8)
    }
    said[_TELLING_OCTETS].update(piece.lower() for piece in _from_base85(as_it_is))
    return any(
        piece in said[size] for key in keys for way in (key, key[::-1]) for form, size in _forms(way)
        for piece in _cut(form, size)
    )  # fmt: skip


def _forms(key: bytes) -> Iterator[tuple[bytes, int]]:
    """The spellings of `key`, without case and punctuation, each with the size that 4 octets have in it."""
    yield key.lower(), _TELLING_OCTETS
    yield key.hex().encode(), 2 * _TELLING_OCTETS
    # What stands before the key shifts its encoding by one octet to four.
    for shift in range(3):
        yield _squeezed(base64.b64encode(bytes(shift) + key)[-(-shift * 8 // 6) :].lower()), 6
    for shift in range(5):
        yield base64.b32encode(bytes(shift) + key).rstrip(b"=")[-(-shift * 8 // 5) :].lower(), 7


def _from_base85(octets: bytes) -> Iterator[bytes]:
    """What each 5 characters in a row are, where they are 4 octets in base 85: cheaper than to encode each key so."""
    for alphabet in _BASE85:
        digits = [alphabet.find(octet) for octet in octets]
        for five in zip(*(digits[at:] for at in range(5)), strict=False):
            number = reduce(lambda number, digit: 85 * number + digit, five)
            if min(five) >= 0 and number < 1 << 32:
                yield number.to_bytes(4, "big")


def _squeezed(octets: bytes) -> bytes:
    return re.sub(rb"[^a-z0-9]", b"", octets)


def _cut(octets: bytes, size: int) -> Iterator[bytes]:
    return (octets[at : at + size] for at in range(len(octets) - size + 1))
