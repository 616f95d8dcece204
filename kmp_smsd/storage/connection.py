"""A connection to the SQLite database, with the settings that everything else relies on."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from pysqlite3 import dbapi2 as sqlite3

PAGE_OCTETS = 2_048  # of a new database; 4,096 made 7 per cent fewer bindings a second, since each dirties three pages
BUSY_TIMEOUT_MS = 5_000

_PRAGMAS = f"""
PRAGMA page_size = {PAGE_OCTETS};
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = ON;
PRAGMA secure_delete = ON;
PRAGMA wal_autocheckpoint = 0;
PRAGMA journal_size_limit = 134217728;
PRAGMA temp_store = MEMORY;
PRAGMA cache_size = -4096;
PRAGMA busy_timeout = {BUSY_TIMEOUT_MS};
"""

# Without an adapter each of these costs a microsecond: it is looked for in three places, two of which raise in vain.
sqlite3.register_adapter(type(None), lambda none: none)
sqlite3.register_adapter(bytes, bytes)


def connect(path: Path) -> sqlite3.Connection:
    """Open the existing database `path` with our settings; the files are made usable for the whole group.

    Raises PermissionError where its mode forbids that, of which SQLite says only that it cannot be opened.
    """
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
    except sqlite3.OperationalError:
        if os.access(path, os.F_OK) and not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)) from None
        raise
    connection.executescript(_PRAGMAS)
    return connection
