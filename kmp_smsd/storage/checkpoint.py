"""Moving the write-ahead log into the database beside the writers, so that no message waits for it."""

from __future__ import annotations

import threading
from contextlib import suppress

from pysqlite3 import dbapi2 as sqlite3

PASSIVE = "PRAGMA wal_checkpoint(PASSIVE)"


class Checkpointer:
    """A thread with a connection of its own; `wake` it where the log is large. It takes no lock that a writer needs."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
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
            with suppress(sqlite3.Error):  # a full disk, say: the log is as large at the next wake
                self._connection.execute(PASSIVE).fetchone()
