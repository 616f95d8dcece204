"""Figures for people and monitoring. None of them costs more the more is due, unless all of it is to be counted."""

from __future__ import annotations

import time
from dataclasses import dataclass

from kmp_smsd.storage.database import Database
from kmp_smsd.storage.due import BEHIND, REJECTED_BEHIND
from kmp_smsd.storage.migrations import known
from kmp_smsd.storage.rows import READ_ROWS

#: Rows of one platform that are counted. Each is looked up in the table, which takes up to 20 microseconds.
COUNTED_MAX = 100_000


@dataclass(frozen=True, slots=True)
class StoreFigures:
    """The database as a whole. `journal_head` is the number of its last entry, 0 where it has none."""

    schema: int  # migrations that it has
    octets: int
    log_octets: int
    journal_head: int


@dataclass(frozen=True, slots=True)
class DueFigures:
    """What is due at one platform: `count` rows, or that many and `more`; the oldest wish among them, in Unix ms."""

    count: int = 0
    more: bool = False
    oldest_at: int | None = None


@dataclass(frozen=True, slots=True)
class RejectedFigures:
    """What one platform has rejected: `count` rows, or that many and `more`."""

    count: int = 0
    more: bool = False


class Figures:
    """Reads in steps, so that no read holds up a checkpoint."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def store(self) -> StoreFigures:
        """Raises StoreUnavailable."""
        self._database.check_files()
        ((journal_head,),) = self._database.rows("SELECT ifnull(max(id), 0) FROM journal")
        with self._database.faults():
            octets, log_octets = (path.stat().st_size for path in (self._database.path, self._database.log_path))
        return StoreFigures(len(known()), octets, log_octets, journal_head)

    def due(self, platform: str, *, at_most: int = COUNTED_MAX) -> DueFigures:
        """Count what is due at `platform`, the longest due first. Raises StoreUnavailable."""
        count, oldest = 0, None
        after = (-1, -1)
        while count <= at_most:  # one more than is told shows that there is more
            rows = self._database.rows(
                f"SELECT try_at, id, wanted_at FROM ({BEHIND})",
                (platform, *after, min(READ_ROWS, at_most + 1 - count)),
            )
            if not rows:
                return DueFigures(count, False, oldest)
            count += len(rows)
            oldest = min([row[2] for row in rows] + ([] if oldest is None else [oldest]))
            after = rows[-1][:2]
        return DueFigures(at_most, True, oldest)

    def rejected(self, platform: str, *, at_most: int = COUNTED_MAX) -> RejectedFigures:
        """Count what `platform` has rejected. Raises StoreUnavailable."""
        count, after = 0, -1
        while count <= at_most:  # as above
            rows = self._database.rows(
                f"SELECT id FROM ({REJECTED_BEHIND})", (platform, None, after, min(READ_ROWS, at_most + 1 - count))
            )
            if not rows:
                return RejectedFigures(count)
            count += len(rows)
            after = rows[-1][0]
        return RejectedFigures(at_most, more=True)

    def probe(self) -> None:
        """Write a little and wait until it is on disk: the time, into a field of the file's header that nobody uses.

        Raises StoreUnavailable where that is not possible.
        """
        with self._database.transaction() as connection:
            connection.execute(f"PRAGMA user_version = {int(time.time()) & 0x7FFFFFFF}")
