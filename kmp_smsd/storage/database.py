"""One connection to the SQLite database: how it is opened, and what a transaction is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage.checkpoint import Checkpointer, close
from kmp_smsd.storage.connection import connect
from kmp_smsd.storage.descriptors import writer
from kmp_smsd.storage.errors import StoreUnavailable, StoreUnusable
from kmp_smsd.storage.lock_waits import UNNAMED, LockWait, named
from kmp_smsd.storage.locks import WriteLock, share
from kmp_smsd.storage.open_files import OpenFiles
from kmp_smsd.storage.remedies import NO_DATABASE
from kmp_smsd.storage.scrubbing import Scrubber
from kmp_smsd.storage.write_ahead_log import WriteAheadLog


def open_database(path: Path, *, checkpoint_aside: bool = False) -> Database:
    """Open `path` for reading and writing. Raises StoreUnusable where it is no database of ours.

    `checkpoint_aside` moves a large log in a thread beside the writers; without it they do it when it is very large.
    """
    try:
        return Database(path, checkpoint_aside=checkpoint_aside)
    except sqlite3.OperationalError as error:
        raise StoreUnavailable(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise StoreUnusable(f"{path} is not a database of kmp-smsd: {error}: {NO_DATABASE}") from error


class Database:
    """One connection and its place in the queue of writers. Used by one thread at a time."""

    def __init__(self, path: Path, *, checkpoint_aside: bool = False) -> None:
        self.path = path
        with ExitStack() as opened:
            self._is_ours = False
            self.connection = connect(path)
            opened.callback(self._close)
            self._lock = opened.enter_context(closing(WriteLock(path)))
            (mode,) = self.connection.execute("PRAGMA journal_mode").fetchone()
            if mode != "wal":  # a copy made by VACUUM INTO, put in place by hand
                raise StoreUnusable(f"{path} is not in WAL mode: put copies in place with 'kmp-smsd db restore'")
            self.connection.execute("SELECT 1 FROM sqlite_schema").fetchone()  # makes the log, where there is none
            self._share_files()
            self._files = OpenFiles(path)
            self._is_ours = True
            checkpointer = None
            if checkpoint_aside:
                checkpointer = opened.enter_context(closing(Checkpointer(connect(path), path)))
            self._log = WriteAheadLog(self.connection, path, self._lock.mark, checkpointer)
            self._opened = opened.pop_all()
        self.scrubber = Scrubber(self)

    def close(self) -> None:
        self._opened.close()

    def _close(self) -> None:
        with suppress(StoreUnavailable):
            if self._is_ours:
                self._files.check()
                close(self.connection, self.path)
                return
        self.connection.close()  # there is nothing of ours that would be moved

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write, or change nothing. What is not the data's own fault (a constraint) is StoreUnavailable."""
        with self._lock:
            with self.faults():
                self._files.check()
                try:
                    self._log.cut_if_marked()
                    self._begin()
                    yield self.connection
                    self.connection.execute("COMMIT")
                except BaseException as error:  # an interrupt too: nothing may be left open
                    with suppress(sqlite3.Error):  # SQLite itself rolls back where the disk is full or broken
                        self.connection.execute("ROLLBACK")
                    self._log.take_back(error)
                    raise
            self._log.move_when_large()

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

    def array(self, sql: str, parameters: Any) -> list[list[Any]]:
        """All rows of a reading statement whose one value is a JSON array of them.

        A statement gives up Python's lock for each row, and waits for it where the reactor is busy: this one does once.
        """
        rows: list[list[Any]] = msgspec.json.decode(self.rows(sql, parameters)[0][0])
        return rows

    def records(self, columns: Sequence[str], sql: str, parameters: Any) -> list[dict[str, Any]]:
        """All rows of one reading statement, each under the names `columns`: the form in which people get them."""
        return [dict(zip(columns, row, strict=True)) for row in self.rows(sql, parameters)]

    @property
    def log_path(self) -> Path:
        return self._log.path

    @property
    def lock_wait(self) -> LockWait:
        """How this connection waits for the write lock."""
        return self._lock.wait

    @property
    def identity(self) -> str:
        """Which files it has open, whatever lies at their paths by now; see `identity_of`."""
        return self._files.identity

    def check_files(self) -> None:
        """Raise StoreUnavailable where somebody removed or replaced one of the files."""
        with self.faults():
            self._files.check()

    def data_version(self) -> int:
        """A number that changes whenever another connection commits; the connection must be idle otherwise."""
        self.check_files()
        return int(self.rows("PRAGMA data_version")[0][0])

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Do something beside SQLite while no writer that knows of our lock is writing."""
        with self._lock, self.faults():
            self._files.check()
            try:
                yield
            except BaseException as error:  # the scrubber commits by a connection of its own
                self._log.take_back(error)
                raise

    def lighten_log(self, octets: int) -> None:
        """Move the log into the database where more than `octets` of it have not been. Not inside of a transaction.

        For who writes much where others write little: nobody else may look at the log for as long as it does.
        """
        with self.faults():
            self._files.check()
            self._log.lighten(octets)

    def growth(self) -> int:
        """By how many octets the database will be longer once its log is in it."""
        with self.faults():
            self._files.check()
            return self._log.growth()

    def empty_log(self) -> bool:
        """Move all of the write-ahead log into the database; False where somebody reads or writes.

        To be called inside of `alone`: others would wait for it in SQLite, and not in their queue.
        """
        return self._log.empty()

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Faults of SQLite, the file system and the memory become StoreUnavailable, unless they are the data's own."""
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError):
            raise
        except (sqlite3.Error, OSError, MemoryError) as error:
            where = getattr(error, "filename", None) or self.path
            why = getattr(error, "strerror", None) or str(error) or "not enough memory"
            raise StoreUnavailable(f"{where}: {why}") from error

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

    def _share_files(self) -> None:
        """Database, log and index are 0660: two users write them, whatever their umasks."""
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):  # another user's file: its owner has set the mode
                share(self.path.with_name(self.path.name + suffix))
