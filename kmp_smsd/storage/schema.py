"""Which schema a database has, and whether this program can use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlite_utils
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage.checkpoint import opened
from kmp_smsd.storage.errors import StoreUnavailable, StoreUnusable
from kmp_smsd.storage.migrations import MIGRATIONS, known
from kmp_smsd.storage.remedies import NO_DATABASE


def check_schema(connection: Any, path: Path, *, is_backup: bool = False) -> None:
    """Raise StoreUnusable unless the database has the schema that this program knows; a backup may have an older one.

    What to do is another thing where it is to be restored: a backup is neither made nor migrated.
    """
    no_database = f"{path} is not a database of kmp-smsd"
    other = "name another file, whole as 'kmp-smsd db backup' wrote it"
    try:
        applied, pending = migrations_of(connection)
    except sqlite3.OperationalError as error:
        # One with a write-ahead log, as of cp instead of a backup, needs a file beside it, even to be read.
        cannot_open = is_backup and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CANTOPEN
        copy_it = ": copy it into a directory where you can write, and restore the copy" if cannot_open else ""
        raise StoreUnavailable(f"{path}: {error}{copy_it}") from error
    except sqlite3.DatabaseError as error:
        raise StoreUnusable(f"{no_database}: {error}: {other if is_backup else NO_DATABASE}") from error
    if connection.execute("PRAGMA auto_vacuum").fetchone()[0]:  # its pages are not those that an erasure knows
        raise StoreUnusable(f"{path} has auto_vacuum, which somebody set: run 'PRAGMA auto_vacuum = 0; VACUUM' on it")
    if not applied:
        make = "for a new one run 'kmp-smsd db migrate'"
        raise StoreUnusable(f"{no_database}: {other if is_backup else make}")
    if is_newer(applied, pending):
        older = "an older" if is_backup else "a"
        raise StoreUnusable(
            f"{path} was made by a newer kmp-smsd ({applied[-1]}): install that, or restore {older} backup"
        )
    if pending and not is_backup:
        raise StoreUnusable(f"{path} has an older schema ({applied[-1]}): run 'kmp-smsd db migrate'")


def migrations_of(connection: Any) -> tuple[list[str], list[str]]:
    """The migrations that were applied to a database, and those of this program that were not. Raises sqlite3.Error."""
    database = sqlite_utils.Database(connection, execute_plugins=False)
    return [one.name for one in MIGRATIONS.applied(database)], [one.name for one in MIGRATIONS.pending(database)]


def is_newer(applied: list[str], pending: list[str]) -> bool:
    """Whether a database has a migration that this program does not know."""
    return len(applied) + len(pending) > len(known())


def known_schema() -> str:
    """The last migration that this program knows."""
    return known()[-1]


def applied_schema(path: Path) -> str:
    """The last migration that was applied to the database, which may be older or newer than this program.

    Raises StoreUnusable where there is no database of ours.
    """
    if not path.is_file():
        raise StoreUnusable(f"no database at {path}")
    try:
        with opened(path) as connection:
            applied, _ = migrations_of(connection)
    except sqlite3.OperationalError as error:
        raise StoreUnavailable(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise StoreUnusable(f"{path} is not a database of kmp-smsd: {error}: {NO_DATABASE}") from error
    if not applied:
        raise StoreUnusable(f"{path} is not a database of kmp-smsd")
    return applied[-1]
