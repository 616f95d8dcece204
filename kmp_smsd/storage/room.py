"""Room on the database's volume: who writes many rows leaves some of it to the messages."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from kmp_smsd.storage.database import Database
from kmp_smsd.storage.errors import NoRoom, StoreUnavailable

#: A tenth of the volume is the messages', at most so much: two logs, one that is being emptied.
RESERVE_OCTETS = 128 * 1024 * 1024


def leave_room(database: Database, part: float = 1.0) -> None:
    """To be called before each step of many rows: leave the messages so much of what is theirs.

    Raises NoRoom where they would have less. Who reads for long keeps the log from being moved.
    """
    free, reserve = _room(database.path)
    with suppress(StoreUnavailable):  # a log that cannot be moved counts below
        database.lighten_log(reserve // 4)
    free -= database.octets_to_move()  # the database may have to grow by it
    if free < reserve * part:
        raise NoRoom(
            f"{database.path.parent} has {max(0, free) // 1_000_000:,} MB left beside the database's log,"
            " which messages need: make room, then try again"
        )


def _room(path: Path) -> tuple[int, int]:
    """Free octets of its volume, and those of them that are the messages'."""
    volume = os.statvfs(path.parent)
    return volume.f_bavail * volume.f_frsize, min(RESERVE_OCTETS, volume.f_blocks * volume.f_frsize // 10)
