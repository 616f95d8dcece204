"""Creating the database, and bringing it to this program's schema."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlite_utils
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage.checkpoint import opened
from kmp_smsd.storage.copies import free_name, write_copy
from kmp_smsd.storage.durable import sync
from kmp_smsd.storage.errors import StoreUnavailable, StoreUnusable
from kmp_smsd.storage.locks import SHARED_MODE, SchemaLock, share
from kmp_smsd.storage.migrations import MIGRATIONS
from kmp_smsd.storage.place import check_place
from kmp_smsd.storage.remedies import NO_DATABASE
from kmp_smsd.storage.schema import is_newer, migrations_of


@dataclass(frozen=True, slots=True)
class Migrated:
    """What `migrate` did. `snapshot` is the copy made before, where there was something to copy."""

    applied: tuple[str, ...]
    snapshot: Path | None = None


def migrate(path: Path) -> Migrated:
    """Create the database, or bring it to this program's schema; a snapshot is made first.

    Raises StoreUnusable where it is not ours or may not lie there, StoreBusy while anybody has it open, and
    StoreUnavailable.
    """
    check_place(path)
    with closing(SchemaLock(path, exclusive=True)):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, SHARED_MODE))
        try:
            with opened(path) as connection:
                migrated = _migrate(connection, path)
        except (sqlite3.OperationalError, OSError) as error:
            raise StoreUnavailable(f"{path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise StoreUnusable(f"{path} is not a database of kmp-smsd: {error}: {NO_DATABASE}") from error
        sync(path)
    return migrated


def _migrate(connection: Any, path: Path) -> Migrated:
    database = sqlite_utils.Database(connection, execute_plugins=False)
    applied, pending = migrations_of(connection)
    if is_newer(applied, pending):
        raise StoreUnusable(f"{path} was made by a newer kmp-smsd ({applied[-1]}): install that one")
    if not applied and set(database.table_names()) - {MIGRATIONS.migrations_table}:
        raise StoreUnusable(f"{path} is a database of something else: correct [storage] path")
    snapshot = None
    if applied and pending:
        snapshot = free_name(path, f"before-{pending[0]}")
        write_copy(connection, snapshot)
        sync(snapshot)
    share(path)
    connection.execute("PRAGMA journal_mode = WAL")
    MIGRATIONS.apply(database)
    return Migrated(tuple(pending), snapshot)
