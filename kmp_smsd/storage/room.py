"""Room on the database's volume: who writes many rows leaves some of it to the messages."""

from __future__ import annotations

import os
from pathlib import Path

from kmp_smsd.storage.checkpoint import free_octets
from kmp_smsd.storage.database import Database
from kmp_smsd.storage.errors import NoRoom

#: A tenth of the volume is the messages', at most so much: two logs, one that is being emptied.
RESERVE_OCTETS = 128 * 1024 * 1024


def leave_room(database: Database, part: float = 1.0) -> None:
    """To be called before each step of many rows: leave the messages so much of what is theirs.

    What is in the log alone has its room in the database first. Raises NoRoom where they would have less.
    """
    reserve = _reserve(database.path)
    left = _left(database)
    if reserve // 4 <= left < reserve * part:  # with less, moving the log would leave next to nothing meanwhile
        with database.faults():
            database.empty_log()  # it may be the largest that there is
        left = _left(database)
    if left < reserve * part:
        raise NoRoom(
            f"{database.path.parent} has {max(0, left) // 1_000_000:,} MB left beside the database's log,"
            " which messages need: make room, then try again"
        )
    database.lighten_log(reserve // 4)


def _left(database: Database) -> int:
    """How many octets are free once the log is in the database."""
    return free_octets(database.path) - database.growth()


def _reserve(path: Path) -> int:
    """How many octets of its volume are the messages'."""
    volume = os.statvfs(path.parent)
    return min(RESERVE_OCTETS, volume.f_blocks * volume.f_frsize // 10)
