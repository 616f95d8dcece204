"""How many there are of what, as people say it."""

from __future__ import annotations


def counted(number: int, one: str, many: str | None = None, *, more: bool = False) -> str:
    """``1 key``, ``2 keys``; with `many` where more changes than an s: ``1 delivery waits``, ``2 deliveries wait``.

    `more` where not all were counted: ``1,000+ keys``.
    """
    what = one if number == 1 and not more else many or f"{one}s"
    return f"{number:,}{'+' if more else ''} {what}"
