"""Seeing that what was erased is in no file any more: the log is emptied, and SQLite's leftovers are cleared."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage.changes import Changes
from kmp_smsd.storage.checkpoint import PASSIVE, move_log
from kmp_smsd.storage.connection import connect
from kmp_smsd.storage.leftovers import all_pages, clear_leftovers, find_leftovers

if TYPE_CHECKING:
    from kmp_smsd.storage.database import Database

ERASE_WAITS_S = (0.1,) * 50
STEP_PAGES = 2_000  # that are cleared while the writers wait, besides what they have written
LOOK_PAGES = 50_000  # that are looked through at once: meanwhile intake writes some thousand others


class Scrubber:
    """Clears the files of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._found: list[int] = []  # kept where the disk does not take it: its cache may look clear all the same
        self._searched_at = -math.inf  # monotonic seconds

    def scrub(
        self,
        *,
        waits_s: Sequence[float] = ERASE_WAITS_S,
        scan_every_s: float = 0.0,
        stopping: Callable[[], bool] = lambda: False,
    ) -> bool:
        """See that what was erased is in no file any more; False where somebody prevented it.

        Empties the write-ahead log, and clears what SQLite left in unused parts of pages. Waits for readers without the
        write lock, but for a moment each: intake goes on meanwhile. Whoever erases adds to `store.erase_log` in the
        same transaction; what is erased after this has begun stays to be done.

        Whoever writes meanwhile may have a page change its place, and what is left in it goes along (tried: SQLite
        numbers siblings in their order). So what was written while pages were looked through is cleared with those in
        which something was found. All of the file is looked through no more often than every `scan_every_s` seconds,
        and no further once `stopping`.
        """

        def may_look() -> bool:
            return time.monotonic() >= self._searched_at + scan_every_s

        if not self._found and not may_look():
            return False
        waits = iter((*waits_s, None))
        with closing(Changes(self._database.connection, self._database.path)) as changes:
            left = _Left(self._database, changes, self._found)
            while not stopping():
                if not left.clear():
                    wait_s = next(waits)
                    if wait_s is None:
                        return False
                    time.sleep(wait_s)
                elif left.nowhere:
                    return True
                elif left.is_new and not may_look():
                    return False
                else:
                    left.find(stopping)
                    self._searched_at = time.monotonic()
        return False


class _Left:
    """Where leftovers of what was erased may be: in pages that were `found`, by their offsets, and in those `ahead`."""

    def __init__(self, database: Database, changes: Changes, found: list[int]) -> None:
        self._database = database
        self._changes = changes
        ((self._erased, self._cleared),) = database.rows("SELECT erase_log, cleared FROM store")
        self._found = found
        self._ahead = range(0)
        self.is_new = True  # nothing was looked through yet, or in vain: nobody knows what was written since
        self.nowhere = False

    def find(self, stopping: Callable[[], bool]) -> None:
        """Look some further, once what was found is cleared."""
        if not self._found:
            ahead, self._ahead = self._ahead[:LOOK_PAGES], self._ahead[LOOK_PAGES:]
            with self._database.faults():
                self._found += find_leftovers(self._database.path, ahead, stopping)

    def clear(self) -> bool:
        """Empty the log, and clear as many pages as a step may; False where somebody prevents it."""
        with suppress(sqlite3.Error, OSError):
            self._changes.let_move()
            move_log(self._database.connection, self._database.path, PASSIVE)  # most of it without the lock
        with self._database.alone():
            version = self._database.data_version()
            written = self._changes.end()
            self.is_new = written is None
            self._found[:0] = written or ()
            return self._database.empty_log() and self._clear(version, STEP_PAGES + len(written or ()))

    def _clear(self, version: int, most: int) -> bool:
        """False where somebody has written since `version`, who need not know of our lock.

        SQLite's own write lock is held from before we see that until another connection than ours has committed: so the
        log is empty, no frame and no checkpoint comes between, and all connections, ours too, give up what they have
        cached of the file.
        """
        with closing(connect(self._database.path)) as another:
            another.execute("PRAGMA busy_timeout = 0")
            try:
                another.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                return False
            if self._database.data_version() != version:
                return False
            if self.is_new:
                self._ahead = all_pages(self._database.path)
            self.nowhere = not self._ahead and len(self._found) <= most
            if not self.nowhere:
                self._changes.begin()
            clear_leftovers(self._database.path, self._found[:most])
            # Counted, since a row that stays as it is would be no commit; and where somebody else has counted too, what
            # was erased since we began may have begun from 0 again.
            another.execute(
                """UPDATE store SET cleared = cleared + 1,
                     erase_log = iif(? AND erase_log = ? AND cleared = ?, 0, erase_log)""",
                (self.nowhere, self._erased, self._cleared),
            )
            another.execute("COMMIT")
        del self._found[:most]
        self._cleared += 1
        return True
