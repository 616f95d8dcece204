"""Moving the write-ahead log into the database.

A file that grew by a write that failed is not to be trusted: a file system may have marked its new blocks as never
written, and forget what is written into them again, although it syncs without an error (tried: ext4 on a volume that
took no more). So the database grows by zeros that are synced before the log is moved into it, and what a write that
failed has added is cut off, from the log in database.py.

And SQLite does not sync what it moves while somebody reads an older state, or writes a later one, and never moves that
again, though a disk may tell only later that it lost it. So after an error the log is moved from its beginning.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage.connection import connect
from kmp_smsd.storage.descriptors import kept_descriptor, others_have_open
from kmp_smsd.storage.volume import free_octets

PASSIVE = "PRAGMA wal_checkpoint(PASSIVE)"
TRUNCATE = "PRAGMA wal_checkpoint(TRUNCATE)"
NOOP = "PRAGMA wal_checkpoint(NOOP)"
_ZEROS = bytes(1024 * 1024)
_MOVED_AT = 96  # in the log's index, nBackfill: https://sqlite.org/walformat.html#the_wal_index_header

log = logging.getLogger(__name__)

Moved = tuple[int, int, int]
"""Whether it was hindered, the pages in the log, and how many of them have been moved."""


def move_log(connection: sqlite3.Connection, path: Path, how: str) -> Moved:
    """Move the log of the database `path` into it. Where that fails, all is in the log still, and can be moved later.

    Hindered where somebody else moves it. Raises sqlite3.Error and OSError.
    """
    with _alone(path, wait=False) as alone:
        return _move(connection, path, how) if alone else (1, 0, 0)


def _move(connection: sqlite3.Connection, path: Path, how: str) -> Moved:
    """PASSIVE in any case, and `how` once nothing is left to be moved: where that fails, it does so at the log.

    After TRUNCATE the log does not tell what was moved: who cut the database by it would cut off what is nowhere else.
    """
    moved = _move_passively(connection, path)
    if how != PASSIVE:
        moved = (1, *moved[1:]) if growth(connection, path) else connection.execute(how).fetchone()
    return moved


def _move_passively(connection: sqlite3.Connection, path: Path) -> Moved:
    with closing(connect(path)) as reader:
        reader.execute("BEGIN")  # from its first look on, what is committed is not moved, and lengthens nothing
        octets = growth(reader, path)
        if octets > free_octets(path.parent):  # trying it would leave nobody any room, inbox included
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            _lengthen(connection, path, octets)
            found: Moved = connection.execute(PASSIVE).fetchone()
        except (sqlite3.Error, OSError):
            _move_again_from_the_beginning(connection, path)
            raise
    return found


def _lengthen(connection: sqlite3.Connection, path: Path, octets: int) -> None:
    """Add zeros, and sync; without any, too: what was moved before may not be, nor the zeros of who was killed here."""
    _, _, moved = in_log(connection)
    database = kept_descriptor(path, os.O_RDWR | os.O_APPEND)  # behind what a stranger moves meanwhile
    trusted = _octets_moved(database)
    try:
        while octets > 0:
            octets -= os.write(database, _ZEROS[:octets])
        os.fsync(database)
    except BaseException:  # an interrupt too
        if in_log(connection)[2] == moved:  # else a stranger has moved something into it
            os.truncate(path, trusted)
        raise


def _octets_moved(database: int) -> int:
    """How long the database is by its own header, which is moved with the rest of the log; zeros may be behind it.

    See https://sqlite.org/fileformat2.html#the_database_header.
    """
    page_octets, pages = struct.unpack(">16xH10xI", os.pread(database, 32, 0))
    return min(os.fstat(database).st_size, (65_536 if page_octets == 1 else int(page_octets)) * int(pages))


def _move_again_from_the_beginning(connection: sqlite3.Connection, path: Path) -> None:
    """Have SQLite forget what it has moved of a log that is not moved as a whole: that may not be on the disk.

    Nobody begins such a log anew, and who reads takes it for what it was before.
    """
    _, pages, moved = in_log(connection)
    if moved < pages:
        os.pwrite(kept_descriptor(path.with_name(path.name + "-shm")), bytes(4), _MOVED_AT)


@contextmanager
def _alone(path: Path, *, wait: bool) -> Iterator[bool]:
    """Whether nobody else moves the log, or closes the database, meanwhile: who cuts it must know what is in it."""
    with open(path.with_name(path.name + "-wal"), "rb") as lock:  # on which SQLite has no lock that closing gives up
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def in_log(connection: sqlite3.Connection) -> Moved:
    """How much is in the log; nothing is moved."""
    found: Moved = connection.execute(NOOP).fetchone()
    return found


def growth(connection: sqlite3.Connection, path: Path) -> int:
    """By how many octets the database `path` becomes longer once all of its log is in it."""
    ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
    ((page_octets,),) = connection.execute("PRAGMA page_size").fetchall()
    return max(0, int(pages) * int(page_octets) - os.stat(path).st_size)


def close(connection: sqlite3.Connection, path: Path) -> None:
    """Close a connection to the database `path`. The last one to be closed moves the log, as always with SQLite.

    But as `move_log` does. Where that fails it stays open for as long as this process: SQLite would try it again.
    """
    try:
        with _alone(path, wait=True):
            if not others_have_open(path):
                _move(connection, path, PASSIVE)
            connection.close()
    except FileNotFoundError:  # there is no log
        connection.close()
    except (sqlite3.Error, OSError, MemoryError) as error:
        _tell(path, error)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))  # the interpreter's end would close it


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to the existing database `path`, closed at the end. Raises sqlite3.Error."""
    connection = connect(path)
    try:
        yield connection
    finally:
        close(connection, path)


def _tell(path: Path, error: Exception) -> None:
    log.error(
        "%s: its log cannot be moved into it, and stays: %s",
        path,
        error,
        extra={"event": "checkpoint_failed", "path": str(path), "reason": str(error)},
    )


class Checkpointer:
    """A thread with a connection of its own; `wake` it where the log is large. It takes no lock that a writer needs."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._failing = False
        self._wanted = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        self._wanted.set()

    def close(self) -> None:
        self._closing = True
        self._wanted.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while self._wanted.wait() and not self._closing:
            self._wanted.clear()
            try:
                move_log(self._connection, self._path, PASSIVE)
            except (sqlite3.Error, OSError, MemoryError) as error:  # a full disk, say; it is woken again
                if not self._failing:  # once, until it succeeds: it is tried again fifty times a second
                    _tell(self._path, error)
                self._failing = True
            else:
                self._failing = False
