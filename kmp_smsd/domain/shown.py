"""Text that others wrote, as people are shown it."""

from __future__ import annotations

CHARACTERS_MAX = 80
GAP = "..."
_HEAD, _TAIL = 50, 27


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
