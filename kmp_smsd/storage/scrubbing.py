"""Seeing that what was erased is in no file any more: the log is emptied, and SQLite's leftovers are cleared."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage.checkpoint import PASSIVE, move_log
from kmp_smsd.storage.connection import connect
from kmp_smsd.storage.leftovers import clear_leftovers, find_leftovers

if TYPE_CHECKING:
    from kmp_smsd.storage.database import Database

ERASE_WAITS_S = (0.1,) * 50
STEP_PAGES = 2_000  # that are cleared while the writers wait


@dataclass(slots=True)
class _Found:
    """Pages that are to be cleared, by their `offsets`; the file was looked through when `store` counted so."""

    erased: int  # `erase_log`
    cleared: int
    offsets: list[int]


class Scrubber:
    """What of a database is still to be cleared, as far as its one connection knows."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._found: _Found | None = None
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
        write lock: intake goes on meanwhile. Whoever erases adds to `store.erase_log` in the same transaction; what is
        erased after we looked through the file stays to be done.

        What was found there is kept until a later call can clear it. The file is not looked through again within
        `scan_every_s` seconds, and no further once `stopping`.
        """
        (asked,) = self._database.rows("SELECT erase_log FROM store")[0]
        searched = False
        waits = iter((*waits_s, None))
        while not stopping():
            found = self._found
            counts = self._database.rows("SELECT erase_log, cleared FROM store")[0]  # before the log is emptied
            if found is None and time.monotonic() < self._searched_at + scan_every_s:
                return False
            with suppress(sqlite3.Error, OSError):
                move_log(self._database.connection, self._database.path, PASSIVE)  # most of it without the lock
            with self._database.alone():
                possible = self._database.empty_log() and (found is None or self._clear(found))
            if not possible:
                wait_s = next(waits)
                if wait_s is None:
                    return False
                time.sleep(wait_s)
            elif found is None:  # all that was erased is in the database now
                with self._database.faults():
                    offsets = find_leftovers(self._database.path, stopping)
                self._searched_at, searched = time.monotonic(), True
                if not stopping():
                    self._found = _Found(counts[0], counts[1], offsets)
            elif not found.offsets:
                self._found = None
                if searched or found.erased == asked:
                    return True
        return False

    def _clear(self, found: _Found) -> bool:
        """Clear the first pages of what was found; False where somebody else writes, who need not know of our lock.

        SQLite's own write lock is held from before we see that the log is empty until another connection than ours has
        committed: so no frame and no checkpoint comes between, and all connections, ours too, give up what they have
        cached of the file.
        """
        rest = found.offsets[STEP_PAGES:]
        with closing(connect(self._database.path)) as another:
            another.execute("PRAGMA busy_timeout = 0")
            try:
                another.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                return False
            if self._database.log_path.stat().st_size:
                return False
            clear_leftovers(self._database.path, found.offsets[:STEP_PAGES])
            # Counted, since a row that stays as it is would be no commit; and where somebody else has counted too, what
            # was erased since we looked may have begun from 0 again.
            another.execute(
                """UPDATE store SET cleared = cleared + 1,
                     erase_log = iif(? AND erase_log = ? AND cleared = ?, 0, erase_log)""",
                (not rest, found.erased, found.cleared),
            )
            another.execute("COMMIT")
        found.offsets = rest
        found.cleared += 1
        return True
