"""What waits for a platform that is not served, as people are told of it."""

from __future__ import annotations

from kmp_smsd.domain.counted import counted
from kmp_smsd.domain.shown import NO_PLATFORM


def unserved(platform: str, due: int, *, more: bool = False) -> str:
    """What is due at `platform`, or at NO_PLATFORM, and why it waits; `more` where not all was counted."""
    if platform == NO_PLATFORM:
        return f"{counted(due, 'delivery waits', 'deliveries wait', more=more)} for a platform: no file names their app"
    waits = counted(due, "delivery or withdrawal waits", "deliveries and withdrawals wait", more=more)
    return f"{waits} for platform {platform}, which has no enabled file"
