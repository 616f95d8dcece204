"""Who may write, and who may replace the database: flock files beside it.

SQLite's own lock lets a busy writer starve the others for seconds, because they poll. Two flock files make a queue:
everyone waits for `next`, its holder waits for `write`. The kernel wakes the waiters in order.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from kmp_smsd.storage.errors import StoreBusy, StoreUnavailable
from kmp_smsd.storage.lock_waits import LockWait

SHARED_MODE = 0o660  # both roles and the operators work through one group


@contextmanager
def open_shared(path: Path) -> Iterator[int]:
    """A lock file that the whole group may use, made where it is missing; a file descriptor, closed at the end.

    Raises StoreUnavailable where that fails.
    """
    try:
        descriptor = open_shared_file(path)
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_shared_file(path: Path) -> int:
    """The same without its end. Raises OSError, for a symbolic link too: its file may be none that is to be shared."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, SHARED_MODE)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            os.fchmod(descriptor, SHARED_MODE)  # whatever the umask was
    except BaseException:  # an interrupt too
        os.close(descriptor)
        raise
    return descriptor


def share(path: Path) -> None:
    """Give the file `path` the mode of those that the group shares, and no symbolic link's file. Raises OSError."""
    # Opened so, it may be closed without an end of the locks that this process has on it.
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.chmod(f"/proc/self/fd/{descriptor}", SHARED_MODE)
    finally:
        os.close(descriptor)


class Mark:
    """What a holder of the lock file `descriptor` leaves for those that hold it after it, of any process.

    Only a holder asks. It outlives a kill, and takes no room on the disk.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @property
    def stands(self) -> bool:
        return os.fstat(self._descriptor).st_size > 0

    @property
    def pages(self) -> int:
        """What `leave` was told."""
        return max(0, os.fstat(self._descriptor).st_size - 1)

    def leave(self, pages: int = 0) -> None:
        """Raises OSError. `pages` is for whoever finds it, and how long the file is tells of it: without a block."""
        os.ftruncate(self._descriptor, 1 + pages)

    def remove(self) -> None:
        """Raises OSError."""
        os.ftruncate(self._descriptor, 0)


class WriteLock:
    """The fair lock around every writing transaction. One per connection, used in that connection's own thread."""

    def __init__(self, database: Path) -> None:
        with ExitStack() as opened:
            self._next = opened.enter_context(open_shared(database.with_name(database.name + ".next")))
            self._write = opened.enter_context(open_shared(database.with_name(database.name + ".write")))
            self.wait = LockWait(self._write)
            self.mark = Mark(self._write)
            self._opened = opened.pop_all()

    def __enter__(self) -> None:
        try:
            if not self._take_if_free():
                with self.wait.told():
                    fcntl.flock(self._next, fcntl.LOCK_EX)
                    try:
                        fcntl.flock(self._write, fcntl.LOCK_EX)
                    finally:
                        fcntl.flock(self._next, fcntl.LOCK_UN)
        except OSError as error:
            raise StoreUnavailable(f"the write lock cannot be taken: {error.strerror}") from error
        self.wait.taken()

    def _take_if_free(self) -> bool:
        """Take the lock where nobody has it and nobody waits for it: then there is nothing to tell of."""
        try:
            fcntl.flock(self._next, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(self._write, fcntl.LOCK_EX | fcntl.LOCK_NB)
            finally:
                fcntl.flock(self._next, fcntl.LOCK_UN)
        except BlockingIOError:
            return False
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wait.released()
        fcntl.flock(self._write, fcntl.LOCK_UN)

    def close(self) -> None:
        self._opened.close()


class _HeldAtOnce:
    """A lock that is held from the start to `close`; who does not get it at once is told `busy`."""

    def __init__(self, path: Path, operation: int, busy: str) -> None:
        with ExitStack() as opened:
            descriptor = opened.enter_context(open_shared(path))
            try:
                fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreBusy(busy) from error
            except OSError as error:
                raise StoreUnavailable(f"{path}: {error.strerror}") from error
            self._opened = opened.pop_all()

    def close(self) -> None:
        self._opened.close()


class SchemaLock(_HeldAtOnce):
    """Held shared by every open store, exclusively by whoever migrates or replaces the database."""

    def __init__(self, database: Path, *, exclusive: bool) -> None:
        super().__init__(
            database.with_name(database.name + ".schema"),
            fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH,
            f"{database} is in use: stop kmp-smsd and wait for running commands, then try again"
            if exclusive
            else f"{database} is being migrated or restored: try again when that has ended",
        )


class ImportLock(_HeldAtOnce):
    """One import at a time, so that staged keys without this lock are known to be abandoned."""

    def __init__(self, database: Path) -> None:
        super().__init__(
            database.with_name(database.name + ".import"),
            fcntl.LOCK_EX,
            "another import is running: try again when it has ended",
        )


class InboxLock(_HeldAtOnce):
    """Held by the intake whose messages lie in the inbox: two would remove each other's files."""

    def __init__(self, database: Path) -> None:
        super().__init__(
            database.with_name(database.name + ".inbox"),
            fcntl.LOCK_EX,
            f"another intake works on {database}: stop it first",
        )
