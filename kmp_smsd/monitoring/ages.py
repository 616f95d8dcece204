"""Times, as they look from now. All are Unix milliseconds."""

from __future__ import annotations

from kmp_smsd.monitoring.amounts import duration, instant
from kmp_smsd.monitoring.markup import NOTHING, Markup, element, text


def ago(at: int | None, now: int) -> Markup:
    """``3 min ago``, ``in 4 min``, or nothing for never; whoever points at it sees the instant."""
    if at is None:
        return text(NOTHING)
    age = now - at
    words = f"in {duration(-age / 1000)}" if age < 0 else f"{since(at, now)} ago"
    return element("time", words, datetime=instant(at), title=instant(at))


def since(at: int, now: int) -> str:
    """For how long it has been so."""
    return duration(max(0, now - at) // 1000)
