"""For how long a certificate of ours is valid, in words: it is to be renewed in time."""

from __future__ import annotations

from typing import Final

from kmp_smsd.domain.counted import counted
from kmp_smsd.domain.spans import DAY_MS

DAY_S: Final = DAY_MS // 1000
RENEW_WITHIN_S: Final = 30 * DAY_S


def validity(left_s: float) -> str:
    """What is said of a certificate with so many seconds left; below 0 it ended so long ago."""
    whole = int(abs(left_s) // DAY_S)
    days = counted(whole, "day") if whole else "less than a day"
    return f"is valid for {days}" if left_s > 0 else f"expired {days} ago"
