"""Which pages of the database others change while we look through its file."""

from __future__ import annotations

from pathlib import Path

from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage.checkpoint import in_log, pages_in_log
from kmp_smsd.storage.connection import connect


class Changes:
    """Reads at the write-ahead log: as long as it does, the log does not begin anew, and tells of every change.

    A reader that began at an empty log also keeps it from being moved, so that the file stays as it is. `connection` is
    one to the database `path` that is idle otherwise. Used by one thread at a time. Raises sqlite3.Error and OSError.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._reader: sqlite3.Connection | None = None

    def close(self) -> None:
        """Let go of the log, and know of no change."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def begin(self) -> None:
        """From here on. The log is empty, and SQLite's write lock held."""
        reader = connect(self._path)
        try:
            reader.execute("BEGIN")
            reader.execute("SELECT 1 FROM store").fetchone()  # it reads from here on
        except BaseException:
            reader.close()
            raise
        self.close()
        self._reader = reader

    def let_move(self) -> None:
        """The file may change from here on: what is in the log by now can be moved into it."""
        if self._reader is not None:
            self.begin()  # at the log's end

    def end(self) -> list[int] | None:
        """The offsets of all pages that were changed; None where that is not known. Lets go of the log."""
        if self._reader is None:
            return None
        try:
            _, frames, _ = in_log(self._connection)
            ((page_octets,),) = self._connection.execute("PRAGMA page_size").fetchall()
            return [(page - 1) * page_octets for page in sorted(pages_in_log(self._path, frames, page_octets))]
        finally:
            self.close()
