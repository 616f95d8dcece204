"""JSON lines that other systems send us: one object a line, an ID in each.

No sentence quotes a line: it names subscribers, and results are kept by whoever reads them.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from kmp_smsd.domain.did_you_mean import did_you_mean
from kmp_smsd.importing.arriving_lines import MOST_OCTETS

ID_CHARACTERS_MAX: Final = 64
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

Canonical = Callable[[str], str]


class LineFault(ValueError):
    """A sentence about the line."""


def read_object(line: bytes | None) -> dict[str, Any]:
    """The fields of a line. None stands for a line of more than MOST_OCTETS. Raises LineFault."""
    if line is None:
        raise LineFault(f"the line has more than {MOST_OCTETS:,} octets; is a line end missing?")
    if line.startswith(_UTF_16) or b"\0" in line:  # of which JSON has none, and UTF-16 one in each ASCII character
        raise LineFault("this is in UTF-16, or no text; save the file in UTF-8")
    try:
        text = line.decode("utf-8-sig")  # Windows begins a file in UTF-8 with a byte order mark
    except UnicodeDecodeError as error:
        raise LineFault(f"octet {error.start + 1} is not UTF-8; write JSON in UTF-8") from None
    try:
        asked = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise LineFault(f"not JSON from character {error.colno} on; write one object in one line") from None
    except RecursionError:
        raise LineFault("the line is nested too deeply; write one flat object") from None
    except LineFault:
        raise
    except ValueError:  # a number of thousands of digits
        raise LineFault("a number is too long; write numbers of subscribers in quotes") from None
    if not isinstance(asked, dict):
        raise LineFault('not a JSON object; write {"id": ..., "op": ..., ...}')
    return asked


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise LineFault("a field stands twice; write each once")
    return found


def read_id(asked: dict[str, Any]) -> str:
    """The line's ID. Raises LineFault."""
    id = asked.get("id")
    if not isinstance(id, str) or not 1 <= len(id) <= ID_CHARACTERS_MAX or not (id.isascii() and id.isprintable()):
        raise LineFault(f'"id" must be 1 to {ID_CHARACTERS_MAX} printable ASCII characters in quotes')
    return id


def check_fields(asked: dict[str, Any], known: Sequence[str], where: str) -> None:
    """Raise LineFault where a field is not one of `known`, those of `where`."""
    for name in asked:
        if name not in known:
            hint = did_you_mean(name[:100], known) or f" (the fields of {where} are {', '.join(known)})"
            raise LineFault(f"a field is unknown{hint}")


def read_mdn(asked: dict[str, Any], name: str, canonical: Canonical) -> str:
    """A number under the numbering plan: `canonical` makes an MDN of its text, or raises ValueError."""
    text = asked.get(name)
    if not isinstance(text, str):
        raise LineFault(f'"{name}" must be a number of a subscriber in quotes, such as "+8613912345678"')
    try:
        return canonical(text)
    except ValueError:
        raise LineFault(
            f'"{name}" is no legal number of the numbering plan; correct it, or add its range to [numbering]'
        ) from None
