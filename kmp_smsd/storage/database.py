"""One connection to the SQLite database: how it is opened, and what a transaction is."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage.checkpoint import (
    FRAME_HEADER_OCTETS,
    LOG_HEADER_OCTETS,
    PASSIVE,
    TRUNCATE,
    Checkpointer,
    close,
    growth,
    in_log,
    log_of,
    move_log,
)
from kmp_smsd.storage.connection import BUSY_TIMEOUT_MS, PAGE_OCTETS, connect
from kmp_smsd.storage.descriptors import writer
from kmp_smsd.storage.errors import StoreUnavailable, StoreUnusable
from kmp_smsd.storage.lock_waits import UNNAMED, LockWait, named
from kmp_smsd.storage.locks import SHARED_MODE, WriteLock
from kmp_smsd.storage.log_limits import log_limits
from kmp_smsd.storage.scrubbing import Scrubber

#: Who writes many rows writes so many in a transaction at most: each may be on pages of its own, and others wait.
STEP_ROWS = 1_000
READ_ROWS = 1_000  # of one statement that only reads: until its end the log cannot begin anew
_WRITE_FAILED = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL)
LOOK_AT_LOG_EVERY_S = 0.02  # a look takes as long as a tenth of a small transaction


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


class Database:
    """One connection and its place in the queue of writers. Used by one thread at a time."""

    def __init__(self, path: Path, *, checkpoint_aside: bool = False) -> None:
        self.path = path
        self.log_path = log_of(path)
        with ExitStack() as opened:
            self._files: list[tuple[Path, str]] = []
            self.connection = connect(path)
            opened.callback(self._close)
            self._lock = opened.enter_context(closing(WriteLock(path)))
            (mode,) = self.connection.execute("PRAGMA journal_mode").fetchone()
            if mode != "wal":  # a copy made by VACUUM INTO, put in place by hand
                raise StoreUnusable(f"{path} is not in WAL mode: put copies in place with 'kmp-smsd db restore'")
            self.connection.execute("SELECT 1 FROM sqlite_schema").fetchone()  # makes the log, where there is none
            self._share_files()
            self._files = [(one, _identity(one)) for one in _files_of(path)]
            self._log_looked_at = float("-inf")  # monotonic seconds
            self._checkpointer: Checkpointer | None = None
            if checkpoint_aside:
                self._checkpointer = opened.enter_context(closing(Checkpointer(connect(path), path)))
            self._opened = opened.pop_all()
        self.scrubber = Scrubber(self)

    def close(self) -> None:
        self._opened.close()

    def _close(self) -> None:
        with suppress(StoreUnavailable):
            self._check_files()
            if self._files:
                close(self.connection, self.path)
                return
        self.connection.close()  # there is nothing of ours that would be moved

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write, or change nothing. What is not the data's own fault (a constraint) is StoreUnavailable."""
        with self._lock:
            with self.faults():
                self._check_files()
                if self._lock.mark.stands:  # a write failed; see checkpoint.py
                    self._cut_log()
                self._begin()
                try:
                    yield self.connection
                    self.connection.execute("COMMIT")
                except BaseException as error:  # an interrupt too: nothing may be left open
                    with suppress(sqlite3.Error):  # SQLite itself rolls back where the disk is full or broken
                        self.connection.execute("ROLLBACK")
                    self._take_back(error)
                    raise
            self._checkpoint_when_large()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Around statements that are to see one state of the database; they can write nothing. Do not stay in it."""
        with self.faults():
            self.connection.execute("PRAGMA query_only = ON")
            try:
                self.connection.execute("BEGIN")
                yield
            finally:
                with suppress(sqlite3.Error):
                    self.connection.execute("ROLLBACK")
                self.connection.execute("PRAGMA query_only = OFF")

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
        with self.faults():
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

    @property
    def lock_wait(self) -> LockWait:
        """How this connection waits for the write lock."""
        return self._lock.wait

    @property
    def identity(self) -> str:
        """Which files it has open, whatever lies at their paths by now; see `identity_of`."""
        return " ".join(identity for _, identity in self._files)

    def data_version(self) -> int:
        """A number that changes whenever another connection commits; the connection must be idle otherwise."""
        with self.faults():
            self._check_files()
        return int(self.rows("PRAGMA data_version")[0][0])

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Do something beside SQLite while no writer that knows of our lock is writing."""
        with self._lock, self.faults():
            self._check_files()
            try:
                yield
            except BaseException as error:  # the scrubber commits by a connection of its own
                self._take_back(error)
                raise

    def lighten_log(self, octets: int) -> None:
        """Move the log into the database where more than `octets` of it have not been. Not inside of a transaction.

        For who writes much where others write little: nobody else may look at the log for as long as it does.
        """
        with self.faults():
            self._check_files()
            _, pages, moved = in_log(self.connection)
            if (pages - moved) * PAGE_OCTETS > octets:
                move_log(self.connection, self.path, PASSIVE)

    def growth(self) -> int:
        """By how many octets the database will be longer once its log is in it."""
        with self.faults():
            self._check_files()
            return growth(self.connection, self.path)

    def empty_log(self) -> bool:
        """Move all of the write-ahead log into the database; False where somebody reads or writes.

        To be called inside of `alone`: others would wait for it in SQLite, and not in their queue.
        """
        self.connection.execute("PRAGMA busy_timeout = 0")
        try:
            (busy, _, _) = move_log(self.connection, self.path, TRUNCATE)
        finally:
            self.connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        return not busy

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Faults of SQLite, the file system and the memory become StoreUnavailable, unless they are the data's own."""
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError):
            raise
        except (sqlite3.Error, OSError, MemoryError) as error:
            raise StoreUnavailable(f"{self.path}: {str(error) or 'not enough memory'}") from error

    def _begin(self) -> None:
        """Begin to write, while our own lock is held: who has SQLite's all the same does not know of ours."""
        try:
            self.connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            holder = writer(self.path) if error.sqlite_errorcode == sqlite3.SQLITE_BUSY else None
            if holder is None:
                raise
            who = named(str(holder)) if holder > 0 else UNNAMED  # of a container's it gives no number
            raise StoreUnavailable(
                f"{self.path}: {error} by {who}, which takes no part in our queue of writers"
            ) from error

    def _check_files(self) -> None:
        """Raise StoreUnavailable where somebody removed or replaced our files: SQLite would write on into nothing."""
        for path, identity in self._files:
            try:
                stands = _identity(path) == identity
            except FileNotFoundError:
                stands = False
            if not stands:
                raise replaced(path)

    def _checkpoint_when_large(self) -> None:
        """Have the log moved into the database; the last of it while we hold the lock, so that the log begins anew."""
        now = time.monotonic()
        if now < self._log_looked_at + LOOK_AT_LOG_EVERY_S:
            return
        self._log_looked_at = now
        with suppress(OSError, sqlite3.Error, MemoryError):  # the commit stands; the next writer finds the log as large
            limits = log_limits(self.path.parent)
            if self.log_path.stat().st_size < limits.large:  # the file says how far it ever grew
                return
            _, pages, moved = in_log(self.connection)
            if pages * PAGE_OCTETS < limits.large:
                return
            if (pages - moved) * PAGE_OCTETS <= limits.finish or pages * PAGE_OCTETS >= limits.most:
                move_log(self.connection, self.path, PASSIVE)
            elif self._checkpointer is not None:
                self._checkpointer.wake()

    def _take_back(self, error: BaseException) -> None:
        """After an error under the write lock, outside of any transaction: leave nothing of a write that failed."""
        if failure := _failed_write(error):
            with suppress(OSError):  # it may be cut all the same
                self._lock.mark.leave()
            with suppress(sqlite3.Error, OSError, StoreUnavailable):  # then the next one does it first
                self._cut_log()
                if failure == sqlite3.SQLITE_FULL:  # not on a broken disk; it begins anew then, and has room in itself
                    move_log(self.connection, self.path, PASSIVE)

    def _cut_log(self) -> None:
        """Cut off what is behind the last commit; the write lock is held. What is before it has been synced."""
        before = self.connection.execute("PRAGMA data_version").fetchone()
        _, pages, _ = in_log(self.connection)
        ((page_octets,),) = self.connection.execute("PRAGMA page_size").fetchall()
        octets = LOG_HEADER_OCTETS + pages * (FRAME_HEADER_OCTETS + page_octets) if pages else 0
        self.connection.execute("BEGIN IMMEDIATE")  # for whoever does not know of our lock
        try:
            if self.connection.execute("PRAGMA data_version").fetchone() != before:
                raise StoreUnavailable(f"{self.path}: another program wrote; try again")
            os.truncate(self.log_path, octets)
        finally:
            self.connection.execute("ROLLBACK")
        self._lock.mark.remove()

    def _share_files(self) -> None:
        """Database, log and index are 0660: two users write them, whatever their umasks."""
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):  # another user's file: its owner has set the mode
                os.chmod(self.path.with_name(self.path.name + suffix), SHARED_MODE)


def identity_of(path: Path) -> str:
    """Which files the database at `path` has: itself, its log and the index of that. Raises StoreUnavailable."""
    try:
        return " ".join(_identity(one) for one in _files_of(path))
    except FileNotFoundError:
        return ""  # none that can be open
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error.strerror}") from error


def replaced(path: Path) -> StoreUnavailable:
    """What to raise where another file is in the place of the one that was opened, or none."""
    return StoreUnavailable(f"{path} was removed or replaced under us: stop both roles, restore it, start them")


def _files_of(path: Path) -> list[Path]:
    # Without the index (-shm), who comes later makes another and overwrites the log.
    return [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]


def _identity(path: Path) -> str:
    status = os.stat(path)
    return f"{status.st_dev}:{status.st_ino}"


def _failed_write(error: BaseException | None) -> int:
    """SQLite's code where it could not write, else 0; somebody may have raised another error from its own."""
    while error is not None:
        code: int = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _WRITE_FAILED:
            return code
        error = error.__cause__
    return 0
