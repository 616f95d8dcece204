"""Text as people are shown it: what others wrote, and what has no name."""

from __future__ import annotations

import re

NO_PLATFORM = "(none yet)"  # what goes to no platform, since no file names its app; no platform can be called so
CHARACTERS_MAX = 80
GAP = "..."
_HEAD, _TAIL = 50, 27
_ADDRESS_HEAD, _ADDRESS_TAIL = 5, 3
_HIDDEN_MIN = 5
_LONG_NUMBER = re.compile("[0-9]{7,}")


def printable(text: str) -> str:
    """`text` without what could move a terminal's cursor."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shown(text: str) -> str:
    """`text` for a sentence: printable, at most 80 characters. Of a longer one, such as a path, both ends are shown."""
    # Each character has one or more printable ones: what is far from both ends need not be looked at.
    if len(text) > 2 * CHARACTERS_MAX:
        text = text[:CHARACTERS_MAX] + text[-CHARACTERS_MAX:]
    text = printable(text)
    return text if len(text) <= CHARACTERS_MAX else text[:_HEAD] + GAP + text[-_TAIL:]


def masked(address: str) -> str:
    """An MDN or another address as logs have it, as in ``86138*****678``: five characters at least are hidden.

    Of the others, up to five at the beginning and three at the end are shown. The length stays.
    """
    hidden = min(len(address), max(_HIDDEN_MIN, len(address) - _ADDRESS_HEAD - _ADDRESS_TAIL))
    tail = min(_ADDRESS_TAIL, (len(address) - hidden) // 2)
    head = len(address) - hidden - tail
    return address[:head] + "*" * hidden + address[head + hidden :]


def masked_in(text: str) -> str:
    """`text` with each number in it masked that is long enough for an MDN: for what quotes values, as tracebacks do."""
    return _LONG_NUMBER.sub(lambda number: masked(number[0]), text)
