"""The write-ahead log as one connection uses it: when it is moved into the database, and what is cut off its end."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage.checkpoint import (
    FRAME_HEADER_OCTETS,
    LOG_HEADER_OCTETS,
    PASSIVE,
    RESTART,
    TRUNCATE,
    Checkpointer,
    Moved,
    growth,
    in_log,
    log_of,
    move_log,
)
from kmp_smsd.storage.connection import BUSY_TIMEOUT_MS, PAGE_OCTETS
from kmp_smsd.storage.errors import StoreUnavailable
from kmp_smsd.storage.locks import Mark
from kmp_smsd.storage.log_limits import log_limits

# While no writer commits, who begins to read needs nothing of the log once it is moved. Without a wait it would never
# begin anew where somebody reads at any time, each for a moment; with a longer one, a backup would hold up all writers.
_WAIT_FOR_READERS_MS = 20
_WAIT_AGAIN_S = 0.2  # after it was in vain
LOOK_EVERY_S = 0.02  # a look takes as long as a tenth of a small transaction
_WRITE_FAILED = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL)


class WriteAheadLog:
    """The log of the database `database`. Used in the connection's own thread. What raises, raises as SQLite does.

    `mark`, of the write lock, tells the next writer that the log is to be cut; `checkpointer` moves a large log beside
    the writers.
    """

    def __init__(
        self, connection: sqlite3.Connection, database: Path, mark: Mark, checkpointer: Checkpointer | None
    ) -> None:
        self.path = log_of(database)
        self._connection = connection
        self._database = database
        self._mark = mark
        self._checkpointer = checkpointer
        self._looked_at = float("-inf")  # monotonic seconds

    def lighten(self, octets: int) -> None:
        """Move it where more than `octets` of it have not been."""
        _, pages, moved = in_log(self._connection)
        if (pages - moved) * PAGE_OCTETS > octets:
            move_log(self._connection, self._database, PASSIVE)

    def growth(self) -> int:
        """By how many octets the database will be longer once it is in it."""
        return growth(self._connection, self._database)

    def empty(self) -> bool:
        """Move all of it, and leave nothing in it, while the write lock is held; False where somebody reads on."""
        hindered, _, _ = self._move_all(TRUNCATE)
        return not hindered

    def _move_all(self, how: str) -> Moved:
        """Wait a moment for who reads an older state, or reads at the log."""
        try:
            self._connection.execute(f"PRAGMA busy_timeout = {_WAIT_FOR_READERS_MS}")
            return move_log(self._connection, self._database, how)
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")

    def move_when_large(self) -> None:
        """Have it moved; the last of it while the write lock is held, so that it begins anew."""
        now = time.monotonic()
        if now < self._looked_at + LOOK_EVERY_S:
            return
        self._looked_at = now
        with suppress(OSError, sqlite3.Error, MemoryError):  # the commit stands; the next writer finds it as large
            limits = log_limits(self._database.parent)
            if self.path.stat().st_size < limits.large:  # the file says how far it ever grew
                return
            _, pages, moved = in_log(self._connection)
            if pages * PAGE_OCTETS < limits.large:
                return
            if pages * PAGE_OCTETS >= limits.most:
                hindered, found, _ = self._move_all(RESTART)
                if hindered and found > 0:  # nothing is found, nor waited for, where somebody else moves it
                    self._looked_at = time.monotonic() + _WAIT_AGAIN_S
            elif (pages - moved) * PAGE_OCTETS <= limits.finish:
                move_log(self._connection, self._database, PASSIVE)
            elif self._checkpointer is not None:
                self._checkpointer.wake()

    def take_back(self, error: BaseException) -> None:
        """After an error under the write lock, outside of any transaction: leave nothing of a write that failed."""
        if failure := _failed_write(error):
            with suppress(OSError):  # it may be cut all the same
                self._mark.leave()
            with suppress(sqlite3.Error, OSError, StoreUnavailable):  # then the next one does it first
                self.cut()
                if failure == sqlite3.SQLITE_FULL:  # not on a broken disk; it begins anew then, and has room in itself
                    move_log(self._connection, self._database, PASSIVE)

    def cut_if_marked(self) -> None:
        """Where a write failed, and what it left is still there, cut that off; the write lock is held."""
        if self._mark.stands:
            self.cut()

    def cut(self) -> None:
        """Cut off what is behind the last commit; the write lock is held. What is before it has been synced."""
        before = self._connection.execute("PRAGMA data_version").fetchone()
        _, pages, _ = in_log(self._connection)
        ((page_octets,),) = self._connection.execute("PRAGMA page_size").fetchall()
        octets = LOG_HEADER_OCTETS + pages * (FRAME_HEADER_OCTETS + page_octets) if pages else 0
        try:
            self._connection.execute("BEGIN IMMEDIATE")  # for whoever does not know of our lock
            if self._connection.execute("PRAGMA data_version").fetchone() != before:
                raise StoreUnavailable(f"{self._database}: another program wrote; try again")
            os.truncate(self.path, octets)
        finally:
            self._connection.rollback()  # where it has begun
        self._mark.remove()


def _failed_write(error: BaseException | None) -> int:
    """SQLite's code where it could not write, else 0; somebody may have raised another error from its own."""
    while error is not None:
        code: int = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _WRITE_FAILED:
            return code
        error = error.__cause__
    return 0
