"""Volumes: how much is on one, how much is free, and how much of it is the messages'."""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: A tenth of the volume is the messages', at most so much: two logs, one that is being emptied.
_RESERVE_OCTETS = 128 * 1024 * 1024


def size_octets(directory: Path) -> int:
    """How large the volume of `directory` is; very large where it does not tell. Raises OSError."""
    volume = os.statvfs(directory)
    return volume.f_blocks * volume.f_frsize or sys.maxsize


def free_octets(directory: Path) -> int:
    """How many octets are free on the volume of `directory`; very many where it does not tell. Raises OSError."""
    volume = os.statvfs(directory)
    return volume.f_bavail * volume.f_frsize if volume.f_blocks else sys.maxsize


def reserve_octets(directory: Path) -> int:
    """How many octets of the volume of `directory` are the messages'. Raises OSError."""
    return min(_RESERVE_OCTETS, size_octets(directory) // 10)
