"""Numbers as people read them at a glance. No line ends between a number and its unit."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

_SPACE = "\N{NO-BREAK SPACE}"
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))
_OCTETS = ("B", "KiB", "MiB", "GiB", "TiB")


def duration(seconds: float) -> str:
    """``4 d 3 h``, ``12 min``, ``3.1 ms``: the two largest units, of minutes and seconds one."""
    if seconds < 0.001:
        return f"0{_SPACE}s" if seconds <= 0 else f"<1{_SPACE}ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g}{_SPACE}ms"
    whole = max(1, int(seconds))
    for (size, unit), (below, unit_below) in pairwise(_UNITS):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size}{_SPACE}{unit}" + (f" {rest}{_SPACE}{unit_below}" if rest else "")
    return f"{whole // 60}{_SPACE}min" if whole >= 60 else f"{whole}{_SPACE}s"


def count(number: int) -> str:
    """``1 048 213``, with spaces that do not break."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def octets(number: float) -> str:
    """``1.2 GiB``."""
    for unit in _OCTETS:
        if number < 1024 or unit == _OCTETS[-1]:
            break
        number /= 1024
    return f"{number:.0f}{_SPACE}{unit}" if unit == "B" else f"{number:.1f}{_SPACE}{unit}"


def rate(per_second: float) -> str:
    """``41.2``, ``0.03``, ``1 204``."""
    if 0 < per_second < 0.1:
        return f"{per_second:.2f}" if per_second >= 0.005 else "<0.01"
    return f"{per_second:.1f}" if per_second < 100 else count(round(per_second))


def instant(unix_ms: int) -> str:
    """``2026-11-27T22:37:27Z``."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
