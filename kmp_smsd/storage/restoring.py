"""Putting a backup in the place of the database."""

from __future__ import annotations

import os
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlite_utils
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.domain.counted import counted
from kmp_smsd.storage.checkpoint import growth, log_of
from kmp_smsd.storage.connection import connect
from kmp_smsd.storage.copies import free_name, remove_copy, write_copy
from kmp_smsd.storage.database import Database
from kmp_smsd.storage.durable import sync
from kmp_smsd.storage.errors import NotPossible, StoreBusy, StoreUnavailable
from kmp_smsd.storage.locks import SchemaLock, share
from kmp_smsd.storage.migrations import MIGRATIONS
from kmp_smsd.storage.place import check_place
from kmp_smsd.storage.renewing import Renewing
from kmp_smsd.storage.replies import Replies
from kmp_smsd.storage.schema import check_schema

RESTORE_STEP_ROWS = 10_000  # nobody waits for the copy
LARGEST_VERSION = 1 << 53  # that is not taken for damage: milliseconds of 285,000 years

_MASTER_KEY = "SELECT master_key FROM store"
_HIGHEST_VERSION = """
SELECT max((SELECT blanked_version FROM store),
           ifnull((SELECT max(max(wanted_version, confirmed_version)) FROM outbox), 0))"""


@dataclass(frozen=True, slots=True)
class Restored:
    """What `restore` did. `previous` is the replaced database, kept beside the new one.

    `master_key` is the fingerprint of the master key that the restored keys are sealed to; None where there are none.
    """

    wanted_again: int
    previous: Path | None
    master_key: str | None = None


def check_names(path: Path, source: Path) -> None:
    """Refuse what no backup can be put in the place of, and what is no backup. Raises NotPossible, StoreUnusable."""
    check_place(path)
    if not source.is_file():
        raise NotPossible(f"no backup {source}")
    if path.exists() and source.samefile(path):
        raise NotPossible(
            f"{source} is the database itself, name a backup of it; to deliver all of a platform again, run 'kmp-smsd"
            " platforms resync NAME'"
        )


def restore(
    path: Path, source: Path, now: int, *, public_half: str | None = None, other_master_key: bool = False
) -> Restored:
    """Put the backup `source` in the place of `path`, and want every row again at a new version.

    `now` is Unix milliseconds, `public_half` the fingerprint of the configured one. Unless `other_master_key` is said,
    a backup whose keys are sealed to another one than that, or than the present database's, is NotPossible.

    All of it is done on a copy beside `path`, which then takes its place in one step. The replaced database is kept.
    """
    check_names(path, source)
    with closing(SchemaLock(path, exclusive=True)):
        copy = path.with_name(path.name + ".restoring")
        remove_copy(copy)
        try:
            sealed_to = _write_checked(source, copy, path, public_half, other_master_key=other_master_key)
            wanted_again = _renew(copy, now, above=_present_highest_version(path))
            previous = _take_place(copy, path, now)
        except (sqlite3.DatabaseError, OSError) as error:
            raise StoreUnavailable(f"{source} could not be restored as {path}: {error}") from error
        finally:
            remove_copy(copy)
    return Restored(wanted_again, previous, sealed_to)


def _write_checked(
    source: Path, copy: Path, path: Path, public_half: str | None, *, other_master_key: bool
) -> str | None:
    """Write the backup as `copy`, once it is known to be whole and ours; what master key its keys are sealed to."""
    with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as original:
        check_schema(original, source, is_backup=True)
        if (missing := _cut_off(original, source)) > 0:  # SQLite takes what is missing of a page for zeros
            raise NotPossible(
                f"{source} is cut short by {counted(missing, 'octet')}: copy it again, or restore another"
            )
        (verdict,) = original.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise NotPossible(f"{source} is damaged: {verdict.splitlines()[-1]}: restore another backup")
        sealed_to: str | None = _answer(original, _MASTER_KEY)
        if not other_master_key:
            _check_master_key(sealed_to, source, public_half, path)
        write_copy(original, copy)
    return sealed_to


def _renew(copy: Path, now: int, *, above: int) -> int:
    """Bring the copy to this version's schema, and want every row again at a new version, above that; how many."""
    with closing(connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        MIGRATIONS.apply(sqlite_utils.Database(connection, execute_plugins=False))
    with closing(Database(copy)) as database:
        with database.transaction() as connection:  # the clock may be behind that of the versions
            connection.execute("UPDATE store SET blanked_version = max(blanked_version, ?)", (above,))
        wanted_again = Renewing(database).want_again(now, step_rows=RESTORE_STEP_ROWS)
        Replies(database).abandon(now)
        database.scrubber.scrub()
    return wanted_again


def _take_place(copy: Path, path: Path, now: int) -> Path | None:
    """Put the copy in the place of the database; under what name the replaced one is kept."""
    share(copy)
    previous = _set_aside(path, now)
    sync(copy)
    try:
        os.replace(copy, path)
    except OSError:
        if previous is not None:
            previous.unlink()
        raise
    sync(path)
    return previous


def _cut_off(connection: Any, path: Path) -> int:
    """How many octets are missing at the end of the database `path`; with a log beside it, that cannot be told."""
    return 0 if log_of(path).exists() else growth(connection, path)


def _check_master_key(sealed_to: str | None, source: Path, public_half: str | None, path: Path) -> None:
    """Keys that this installation cannot open are another one's, or from before its master key was replaced."""
    for ours, known in (
        ("the configured public half is", public_half),
        (f"{path} has", _of_present(path, _MASTER_KEY)),
    ):
        if sealed_to is not None and known is not None and sealed_to != known:
            raise NotPossible(
                f"the keys in {source} are sealed to master key {sealed_to}, {ours} {known}: is it the backup of"
                " another installation, or from before 'kmp-smsd master-key rotate'? With both halves of its master key"
                " at hand, say --other-master-key"
            )


def _present_highest_version(path: Path) -> int:
    """The highest that platforms may know of the database to be replaced; 0 where that cannot be told."""
    highest: int | None = _of_present(path, _HIGHEST_VERSION)
    return highest if highest is not None and highest < LARGEST_VERSION else 0


def _of_present(path: Path, question: str) -> Any:
    """What the database to be replaced answers; None where it has nothing to, or is missing or damaged."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=0)) as present:
            return _answer(present, question)
    except sqlite3.DatabaseError:
        return None


def _answer(connection: Any, question: str) -> Any:
    found = connection.execute(question).fetchone()
    return None if found is None else found[0]


def _set_aside(path: Path, now: int) -> Path | None:
    """Keep the present database under another name, its log folded in: a foreign log beside a database destroys it.

    Exclusive locking proves that nobody reads it either (a backup, a shell); closing it then removes log and index.
    None where there is no database: whoever removed or moved it may have left its log.
    """
    previous = free_name(path, time.strftime("before-restore-%Y%m%dT%H%M%SZ", time.gmtime(now / 1000)))
    if not path.exists():
        _take_log_along(path, previous)
        return None
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=0)
        ) as last:
            last.execute("PRAGMA locking_mode = EXCLUSIVE")
            last.execute("BEGIN EXCLUSIVE")
            last.execute("COMMIT")
            last.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise StoreBusy(
                f"another program, such as a shell of SQLite, has {path} open: end it (fuser {path})"
            ) from error
        raise
    except sqlite3.DatabaseError:  # damaged: that is why it is replaced
        _take_log_along(path, previous)
    os.link(path, previous)
    return previous


def _take_log_along(path: Path, previous: Path) -> None:
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.replace(path.with_name(path.name + suffix), previous.with_name(previous.name + suffix))
