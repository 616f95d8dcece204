"""The log of a store by hand: how it grows, what no longer fits, and what happens as it is moved."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage import Store, checkpoint
from kmp_smsd.storage.subscribers import Registration
from tests.storage.stock import NOW

FRAME_OCTETS = 24 + 2048
STRANGER = """
import fcntl, sys
with open(sys.argv[1] + "-shm", "r+b") as index:
    fcntl.lockf(index, fcntl.LOCK_EX, 1, 121)
    print("locked", flush=True)
    sys.stdin.read()
"""


def log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def add(store: Store, first: int, count: int = 100) -> None:
    store.registrations.add([Registration(f"861{number:010}", "meter") for number in range(first, first + count)], NOW)


def registered(store: Store) -> int:
    ((count,),) = store._database.rows("SELECT count(*) FROM registrations")
    return int(count)


@contextmanager
def no_file_grows_beyond(octets: int) -> Iterator[None]:
    """Writes behind `octets` of any file fail, those before it succeed."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class CommittedMeanwhile:
    """A connection for which something happens in the moment before it moves the log."""

    def __init__(
        self, connection: sqlite3.Connection, what: Callable[[], None], when: str = checkpoint.PASSIVE
    ) -> None:
        self._connection = connection
        self._what = what
        self._when = when

    def execute(self, how: str) -> sqlite3.Cursor:
        if how == self._when:
            self._what()
        return self._connection.execute(how)
