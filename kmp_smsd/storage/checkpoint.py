"""Moving the write-ahead log into the database.

A file that grew by a write that failed is not to be trusted: a file system may have marked its new blocks as never
written, and forget what is written into them again, although it syncs without an error (tried: ext4 on a volume that
took no more). So the database grows by zeros that are synced before the log is moved into it, and what a write that
failed has added is cut off, from the log in write_ahead_log.py.

And SQLite does not sync what it moves while somebody reads an older state, or writes a later one, and never moves that
again: so we sync it. A mark stands while the log is moved. Whoever finds it, left by an error, an interrupt or a kill,
moves the log from its beginning, because a disk tells each descriptor only once that it lost something.
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
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage.connection import connect
from kmp_smsd.storage.descriptors import kept_descriptor, others_have_open
from kmp_smsd.storage.locks import Mark, open_shared_file
from kmp_smsd.storage.volume import free_octets

PASSIVE = "PRAGMA wal_checkpoint(PASSIVE)"
RESTART = "PRAGMA wal_checkpoint(RESTART)"
TRUNCATE = "PRAGMA wal_checkpoint(TRUNCATE)"
NOOP = "PRAGMA wal_checkpoint(NOOP)"
_ZEROS = bytes(1024 * 1024)
# In the log's index, nBackfill, and the octet that is locked: https://sqlite.org/walformat.html#the_wal_index_file_format
_MOVED_AT = 96
_CHECKPOINT_LOCK = 121
LOG_HEADER_OCTETS, FRAME_HEADER_OCTETS = 32, 24  # https://sqlite.org/fileformat2.html#the_write_ahead_log

log = logging.getLogger(__name__)

Moved = tuple[int, int, int]
"""Whether it was hindered, the pages in the log, and how many of them have been moved."""


def move_log(connection: sqlite3.Connection, path: Path, how: str) -> Moved:
    """Move the log of the database `path` into it. Where that fails, all is in the log still, and can be moved later.

    Hindered where somebody else moves it. Raises sqlite3.Error and OSError.
    """
    lock = _lock_file(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _move(connection, path, how, Mark(lock))
    except BlockingIOError:
        return 1, 0, 0
    finally:
        os.close(lock)


def _move(connection: sqlite3.Connection, path: Path, how: str, mark: Mark) -> Moved:
    """PASSIVE in any case, and `how` once nothing is left to be moved: where that fails, it does so at the log.

    Raises BlockingIOError where a move is not to be trusted, and a stranger moves the log just now.
    """
    if mark.stands:
        _distrust(connection, path, mark)
    try:
        moved = _move_passively(connection, path, mark)
        if how != PASSIVE:
            moved = (1, *moved[1:]) if growth(connection, path) else connection.execute(how).fetchone()
            os.fsync(_appending(path))  # it may have moved some more, and not the rest
    except BaseException:  # an interrupt too
        if mark.stands:
            with suppress(sqlite3.Error, OSError, MemoryError):  # then the next one does it first
                _distrust(connection, path, mark)
        raise
    mark.remove()
    return moved


def _move_passively(connection: sqlite3.Connection, path: Path, mark: Mark) -> Moved:
    with closing(connect(path)) as reader:
        reader.execute("BEGIN")  # from its first look on, what is committed is not moved, and lengthens nothing
        octets = growth(reader, path)
        if octets > free_octets(path.parent):  # trying it would leave nobody any room, inbox included
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        ((page_octets,),) = connection.execute("PRAGMA page_size").fetchall()
        mark.leave(os.stat(path).st_size // page_octets)
        database = _appending(path)
        if octets:
            while octets > 0:
                octets -= os.write(database, _ZEROS[:octets])
            os.fsync(database)
        found: Moved = connection.execute(PASSIVE).fetchone()
        os.fsync(database)  # a writer may have been there before SQLite looked whether all is moved
    return found


def _distrust(connection: sqlite3.Connection, path: Path, mark: Mark) -> None:
    """Cut off zeros, and have SQLite forget what it has moved of the log: neither may be on the disk.

    Who reads since before still takes from the database what had been moved: nothing is cut off of what was there when
    the mark was left. Raises BlockingIOError where a stranger moves the log, or mends its index, just now.
    """
    in_log(connection)  # which may mend the index, and that would give up the lock
    with _no_checkpoint(path):
        hindered, _, moved = in_log(connection)
        if hindered:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        ((page_octets,),) = connection.execute("PRAGMA page_size").fetchall()
        kept = max(mark.pages, -(-_octets_moved(path, moved) // page_octets))
        mark.leave(kept)  # from here on the index does not tell it any more: for whoever has to begin once more
        os.truncate(path, min(kept * page_octets, os.stat(path).st_size))
        os.pwrite(kept_descriptor(_index_of(path)), bytes(4), _MOVED_AT)
    mark.remove()


def _octets_moved(path: Path, frames: int) -> int:
    """How far the database reaches by its own header, or by the first `frames` of its log, which have been moved.

    A stranger may have moved more than the mark tells. The page of the header has not been, where it is in the log once
    more behind them. See https://sqlite.org/fileformat2.html#the_database_header.
    """
    database = kept_descriptor(path)
    header = os.pread(database, 32, 0)
    if len(header) < 32 or not header.startswith(b"SQLite format 3\0"):
        return os.fstat(database).st_size
    page_octets, pages = struct.unpack(">16xH10xI", header)
    page_octets = 65_536 if page_octets == 1 else int(page_octets)
    return page_octets * max({int(pages), *pages_in_log(path, frames, page_octets)})


def pages_in_log(path: Path, frames: int, page_octets: int) -> set[int]:
    """The numbers of the pages that the first `frames` of the log hold, by the WAL frame header."""
    with open(log_of(path), "rb") as wal:
        begins = (LOG_HEADER_OCTETS + frame * (FRAME_HEADER_OCTETS + page_octets) for frame in range(frames))
        return {int.from_bytes(os.pread(wal.fileno(), 4, begin)) for begin in begins}


@contextmanager
def _no_checkpoint(path: Path) -> Iterator[None]:
    """While nobody who does not know of our lock moves the log: SQLite's own lock of who does.

    Not around a checkpoint: SQLite would give it up, since a lock is the process's. Raises BlockingIOError.
    """
    index = kept_descriptor(_index_of(path))
    fcntl.lockf(index, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _CHECKPOINT_LOCK)
    try:
        yield
    finally:
        fcntl.lockf(index, fcntl.LOCK_UN, 1, _CHECKPOINT_LOCK)


def _lock_file(path: Path) -> int:
    """Locked by who moves the log, or closes the database: who cuts it must know what is in it. It has their `Mark`.

    To be locked within the `try` that closes it: an interrupt on the way into a context manager, or out of it, leaves
    it locked, and who closes the database on that way would wait for itself. Raises OSError.
    """
    return open_shared_file(path.with_name(path.name + ".moving"))


def in_log(connection: sqlite3.Connection) -> Moved:
    """How much is in the log; nothing is moved."""
    found: Moved = connection.execute(NOOP).fetchone()
    return found


def _appending(path: Path) -> int:
    """The descriptor that writes behind what a stranger moves meanwhile. One for all: each is told of an error once."""
    return kept_descriptor(path, os.O_RDWR | os.O_APPEND)


def log_of(path: Path) -> Path:
    """The write-ahead log of the database `path`."""
    return path.with_name(path.name + "-wal")


def _index_of(path: Path) -> Path:
    return path.with_name(path.name + "-shm")


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
        connection.rollback()  # of a transaction whose context manager was interrupted on the way in or out
        lock = _lock_file(path)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            mark = Mark(lock)
            if log_of(path).exists() and (mark.stands or not others_have_open(path)):
                _move(connection, path, PASSIVE, mark)
            connection.close()
        finally:
            os.close(lock)
    except BaseException as error:  # an interrupt too
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))  # the interpreter's end would close it
        if not isinstance(error, sqlite3.Error | OSError | MemoryError):
            raise
        _tell(path, error)


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
