"""How large the write-ahead log becomes: less on a small volume, where it is part of what is the messages'."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kmp_smsd.storage.volume import reserve_octets, size_octets

# Seldom reached while intake runs, which moves it beside the writers.
_MOST = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LogLimits:
    """In octets. The numbers in brackets are those of a volume of 10 GiB and more."""

    shared: int
    """So much may be left in it by who writes many rows (32 MiB)."""
    large: int
    """From here on it is moved beside the writers (64 MiB)."""
    finish: int
    """So little is moved while the writers wait, so that the log begins anew (1 MiB)."""
    most: int
    """From here on the writers wait for all of it (256 MiB)."""


def log_limits(directory: Path) -> LogLimits:
    """The limits of a log in `directory`. Raises OSError.

    In 64 MiB many pages were written more than once, and are moved once: intake spends half as long on that as with 16.
    """
    reserve = reserve_octets(directory)
    # A volume that is not small has room beside what is the messages'.
    most = min(_MOST, max(reserve * 3 // 4, size_octets(directory) // 40))
    return LogLimits(shared=reserve // 4, large=reserve // 2, finish=reserve // 128, most=most)
