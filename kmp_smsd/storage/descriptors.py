"""Descriptors of database files beside those of SQLite.

Closing any descriptor of a file drops all locks that this process has on it, SQLite's too (POSIX): so none is closed.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from pathlib import Path

_descriptors: dict[tuple[int, int, int], int] = {}  # by device, inode, and how it was opened
_changing = threading.Lock()

_FLOCK = "hhqqi0q"  # struct flock of fcntl(2): type, whence, start, length, process
# What each connection has locked: SHARED_FIRST and SHARED_SIZE of https://sqlite.org/src/file/src/os.h
_SHARED_FIRST, _SHARED_OCTETS = 0x4000_0002, 510
_WAL_WRITE_LOCK = 120  # the octet of the log's index that a writer locks: https://sqlite.org/walformat.html


def kept_descriptor(path: Path, how: int = os.O_RDWR) -> int:
    """A descriptor of the file `path`, opened as `how` says, which is never closed by anybody but this module."""
    status = path.stat()
    place = status.st_dev, status.st_ino, how
    with _changing:
        for other, known in list(_descriptors.items()):
            if os.fstat(known).st_nlink == 0:  # deleted, so that nobody's locks on it matter
                del _descriptors[other]
                os.close(known)
        if place not in _descriptors:
            _descriptors[place] = os.open(path, how | os.O_CLOEXEC)
        return _descriptors[place]


def others_have_open(path: Path) -> bool:
    """Whether another process than this one has the database `path` open."""
    return _holder(path, _SHARED_FIRST, _SHARED_OCTETS) is not None


def writer(path: Path) -> int | None:
    """Which other process than this one has SQLite's own write lock on the database `path`; None where none has it."""
    return _holder(path.with_name(path.name + "-shm"), _WAL_WRITE_LOCK, 1)


def _holder(path: Path, start: int, octets: int) -> int | None:
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, octets, 0)
    kind, *_, pid = struct.unpack(_FLOCK, fcntl.fcntl(kept_descriptor(path, os.O_RDONLY), fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else int(pid)
