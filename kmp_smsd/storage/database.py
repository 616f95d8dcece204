"""One connection to the SQLite database: how it is opened, and what a transaction is."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage.checkpoint import PASSIVE, Checkpointer
from kmp_smsd.storage.errors import StoreUnavailable, StoreUnusable
from kmp_smsd.storage.leftovers import clear_leftovers, find_leftovers
from kmp_smsd.storage.locks import SHARED_MODE, WriteLock

#: No transaction touches more rows than this: others wait for it.
STEP_ROWS = 5_000
PAGE_OCTETS = 2_048  # of a new database; 4,096 made 7 per cent fewer bindings a second, since each dirties three pages
# From so much of log on it is moved into the database: in 64 MiB many pages were written more than once, and are moved
# once; intake spends half as long on that as with 16 MiB.
CHECKPOINT_PAGES = 64 * 1024 * 1024 // PAGE_OCTETS
FINISH_PAGES = CHECKPOINT_PAGES // 64  # so few are moved while the writers wait; then the log begins anew
LOG_PAGES_MAX = 4 * CHECKPOINT_PAGES  # from here on the writers wait for all of it
BUSY_TIMEOUT_MS = 5_000
ERASE_WAITS_S = (0.1,) * 50
STEP_PAGES = 2_000  # that are cleared while the writers wait

_PRAGMAS = f"""
PRAGMA page_size = 2048;
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = ON;
PRAGMA secure_delete = ON;
PRAGMA wal_autocheckpoint = 0;
PRAGMA journal_size_limit = 134217728;
PRAGMA temp_store = MEMORY;
PRAGMA cache_size = -4096;
PRAGMA busy_timeout = {BUSY_TIMEOUT_MS};
"""


def connect(path: Path) -> sqlite3.Connection:
    """Open the existing database `path` with our settings; the files are made usable for the whole group."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    connection.executescript(_PRAGMAS)
    return connection


def open_database(path: Path, *, checkpoint_aside: bool = False) -> Database:
    """Open `path` for reading and writing. Raises StoreUnusable where it is no database of ours.

    `checkpoint_aside` moves a large log in a thread beside the writers; without it they do it when it is very large.
    """
    try:
        return Database(path, checkpoint_aside=checkpoint_aside)
    except sqlite3.OperationalError as error:
        raise StoreUnavailable(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise StoreUnusable(f"{path} is not a database of kmp-smsd: {error}") from error


@dataclass(slots=True)
class _Found:
    """Pages that are to be cleared, by their `offsets`; the file was looked through when `store` counted so."""

    erased: int  # `erase_log`
    cleared: int
    offsets: list[int]


class Database:
    """One connection and its place in the queue of writers. Used by one thread at a time."""

    def __init__(self, path: Path, *, checkpoint_aside: bool = False) -> None:
        self.path = path
        self._wal = path.with_name(path.name + "-wal")
        self._shm = path.with_name(
            path.name + "-shm"
        )  # without it, who comes later makes another and overwrites the log
        with ExitStack() as opened:
            self.connection = opened.enter_context(closing(connect(path)))
            self._lock = opened.enter_context(closing(WriteLock(path)))
            (mode,) = self.connection.execute("PRAGMA journal_mode").fetchone()
            if mode != "wal":  # a copy made by VACUUM INTO, put in place by hand
                raise StoreUnusable(f"{path} is not in WAL mode: put copies in place with 'kmp-smsd db restore'")
            self.connection.execute("SELECT 1 FROM sqlite_schema").fetchone()  # makes the log, where there is none
            self._share_files()
            self._files = [(one, one.stat().st_ino) for one in (path, self._wal, self._shm)]
            self._found: _Found | None = None
            self._scanned_at = -math.inf  # monotonic seconds
            self._checkpointer: Checkpointer | None = None
            if checkpoint_aside:
                self._checkpointer = opened.enter_context(closing(Checkpointer(connect(path))))
            self._opened = opened.pop_all()

    def close(self) -> None:
        self._opened.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write, or change nothing. What is not the data's own fault (a constraint) is StoreUnavailable."""
        with self._lock:
            with self._faults():
                self._check_files()
                self.connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self.connection
                    self.connection.execute("COMMIT")
                except BaseException:  # an interrupt too: nothing may be left open
                    with suppress(sqlite3.Error):  # SQLite itself rolls back where the disk is full or broken
                        self.connection.execute("ROLLBACK")
                    raise
            self._checkpoint_when_large()

    @contextmanager
    def unreferenced(self) -> Iterator[None]:
        """Around a transaction that deletes rows to which nothing refers: for each, SQLite would search all tables."""
        self.connection.execute("PRAGMA foreign_keys = OFF")
        try:
            yield
        finally:
            self.connection.execute("PRAGMA foreign_keys = ON")

    def rows(self, sql: str, parameters: Any = ()) -> list[Any]:
        """All rows of one reading statement."""
        with self._faults():
            return list(self.connection.execute(sql, parameters))

    def array(self, sql: str, parameters: Any = ()) -> list[list[Any]]:
        """All rows of a reading statement whose one value is a JSON array of them.

        A statement gives up Python's lock for each row, and waits for it where the reactor is busy: this one does once.
        """
        rows: list[list[Any]] = json.loads(self.rows(sql, parameters)[0][0])
        return rows

    def records(self, columns: Sequence[str], sql: str, parameters: Any = ()) -> list[dict[str, Any]]:
        """All rows of one reading statement, each under the names `columns`: the form in which people get them."""
        return [dict(zip(columns, row, strict=True)) for row in self.rows(sql, parameters)]

    def data_version(self) -> int:
        """A number that changes whenever another connection commits; the connection must be idle otherwise."""
        with self._faults():
            self._check_files()
        return int(self.rows("PRAGMA data_version")[0][0])

    def erase_log(
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
        (asked,) = self.rows("SELECT erase_log FROM store")[0]
        scanned = False
        waits = iter((*waits_s, None))
        while not stopping():
            found = self._found
            counts = self.rows("SELECT erase_log, cleared FROM store")[0]  # before the log is emptied
            if found is None and time.monotonic() < self._scanned_at + scan_every_s:
                return False
            with suppress(sqlite3.Error):
                self.connection.execute(PASSIVE).fetchone()  # most of it without the lock
            with self._lock, self._faults():
                self._check_files()
                possible = self._empty_log() and (found is None or self._clear(found))
            if not possible:
                wait_s = next(waits)
                if wait_s is None:
                    return False
                time.sleep(wait_s)
            elif found is None:  # all that was erased is in the database now
                with self._faults():
                    offsets = find_leftovers(self.path, stopping)
                self._scanned_at, scanned = time.monotonic(), True
                if not stopping():
                    self._found = _Found(counts[0], counts[1], offsets)
            elif not found.offsets:
                self._found = None
                if scanned or found.erased == asked:
                    return True
        return False

    def _clear(self, found: _Found) -> bool:
        """Clear the first pages of what was found; False where somebody else writes, who need not know of our lock.

        SQLite's own write lock is held from before we see that the log is empty until another connection than ours has
        committed: so no frame and no checkpoint comes between, and all connections, ours too, give up what they have
        cached of the file.
        """
        rest = found.offsets[STEP_PAGES:]
        with closing(connect(self.path)) as another:
            another.execute("PRAGMA busy_timeout = 0")
            try:
                another.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                return False
            if self._wal.stat().st_size:
                return False
            clear_leftovers(self.path, found.offsets[:STEP_PAGES])
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

    def _empty_log(self) -> bool:
        self.connection.execute("PRAGMA busy_timeout = 0")
        try:
            (busy, _, _) = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            self.connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        return not busy

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError):
            raise
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"{self.path}: {error}") from error

    def _check_files(self) -> None:
        """Raise StoreUnavailable where somebody removed or replaced our files: SQLite would write on into nothing."""
        for path, inode in self._files:
            try:
                stands = path.stat().st_ino == inode
            except FileNotFoundError:
                stands = False
            if not stands:
                raise StoreUnavailable(
                    f"{path} was removed or replaced under us: stop both roles, restore it, start them"
                )

    def _checkpoint_when_large(self) -> None:
        """Have the log moved into the database; the last of it while we hold the lock, so that the log begins anew."""
        with suppress(OSError, sqlite3.Error):  # the commit stands; the next writer finds the log as large
            if self._wal.stat().st_size < CHECKPOINT_PAGES * PAGE_OCTETS:  # the file says how far it ever grew
                return
            _, pages, moved = self.connection.execute("PRAGMA wal_checkpoint(NOOP)").fetchone()
            if pages < CHECKPOINT_PAGES:
                return
            if pages - moved <= FINISH_PAGES or pages >= LOG_PAGES_MAX:
                self.connection.execute(PASSIVE).fetchone()
            elif self._checkpointer is not None:
                self._checkpointer.wake()

    def _share_files(self) -> None:
        """Database, log and index are 0660: two users write them, whatever their umasks."""
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):  # another user's file: its owner has set the mode
                os.chmod(self.path.with_name(self.path.name + suffix), SHARED_MODE)
