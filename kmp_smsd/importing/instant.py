"""Dates and times as a file writes them: ISO 8601 in UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from kmp_smsd.domain.spans import DAY_MS

_FORM: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?")


@lru_cache(maxsize=1024)
def beginning_ms(text: str) -> int:
    """Unix milliseconds of `2026-01-31T12:00:00Z`, or of the first moment of `2026-01-31`. Raises ValueError."""
    if _FORM.fullmatch(text):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            pass  # the 31st of February
        else:
            return int(moment.replace(tzinfo=UTC).timestamp()) * 1000
    raise ValueError("this is not a date like 2026-01-31 or a time in UTC like 2026-01-31T12:00:00Z")


def end_ms(text: str) -> int:
    """Unix milliseconds of a time, or of the first moment after a day. Raises ValueError."""
    beginning = beginning_ms(text)
    return beginning if "T" in text else beginning + DAY_MS
