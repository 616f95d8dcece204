"""Who may write, and who may replace the database: flock files beside it.

SQLite's own lock lets a busy writer starve the others for seconds, because they poll. Two flock files make a queue:
everyone waits for `next`, its holder waits for `write`. The kernel wakes the waiters in order.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from kmp_smsd.storage.errors import StoreBusy, StoreUnavailable

SHARED_MODE = 0o660  # both roles and the operators work through one group


def open_shared(path: Path) -> int:
    """Open or create a lock file that the whole group may use; a file descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, SHARED_MODE)
    if os.fstat(descriptor).st_uid == os.geteuid():
        os.fchmod(descriptor, SHARED_MODE)  # whatever the umask was
    return descriptor


class WriteLock:
    """The fair lock around every writing transaction. One per connection, used in that connection's own thread."""

    def __init__(self, database: Path) -> None:
        self._next = open_shared(database.with_name(database.name + ".next"))
        self._write = open_shared(database.with_name(database.name + ".write"))

    def __enter__(self) -> None:
        try:
            fcntl.flock(self._next, fcntl.LOCK_EX)
            try:
                fcntl.flock(self._write, fcntl.LOCK_EX)
            finally:
                fcntl.flock(self._next, fcntl.LOCK_UN)
        except OSError as error:
            raise StoreUnavailable(f"the write lock cannot be taken: {error.strerror}") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.flock(self._write, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._next)
        os.close(self._write)


class SchemaLock:
    """Held shared by every open store, exclusively by whoever migrates or replaces the database."""

    def __init__(self, database: Path, *, exclusive: bool) -> None:
        self._descriptor = open_shared(database.with_name(database.name + ".schema"))
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise StoreBusy(
                f"{database} is in use: stop kmp-smsd and wait for running commands, then try again"
                if exclusive
                else f"{database} is being migrated or restored: try again when that has ended"
            ) from error

    def close(self) -> None:
        os.close(self._descriptor)


class ImportLock:
    """One import at a time, so that staged keys without this lock are known to be abandoned."""

    def __init__(self, database: Path) -> None:
        self._descriptor = open_shared(database.with_name(database.name + ".import"))
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise StoreBusy("another import is running: try again when it has ended") from error

    def close(self) -> None:
        os.close(self._descriptor)
