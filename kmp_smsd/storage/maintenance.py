"""Creating, migrating and restoring the database."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import sqlite_utils
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.domain.counted import counted
from kmp_smsd.storage.checkpoint import log_of, opened
from kmp_smsd.storage.connection import connect
from kmp_smsd.storage.database import Database
from kmp_smsd.storage.durable import sync
from kmp_smsd.storage.errors import NotPossible, StoreBusy, StoreUnavailable, StoreUnusable
from kmp_smsd.storage.locks import SHARED_MODE, SchemaLock
from kmp_smsd.storage.migrations import MIGRATIONS
from kmp_smsd.storage.renewing import Renewing
from kmp_smsd.storage.replies import Replies

RESTORE_STEP_ROWS = 10_000  # nobody waits for the copy
_MADE_WITH_A_COPY = ("", "-journal", "-wal", "-shm", ".next", ".write", ".moving")
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "ncpfs"})


@dataclass(frozen=True, slots=True)
class Migrated:
    """What `migrate` did. `snapshot` is the copy made before, where there was something to copy."""

    applied: tuple[str, ...]
    snapshot: Path | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """What `restore` did. `previous` is the replaced database, kept beside the new one.

    `master_key` is the fingerprint of the master key that the restored keys are sealed to; None where there are none.
    """

    wanted_again: int
    previous: Path | None
    master_key: str | None = None


def check_place(path: Path) -> None:
    """Refuse a directory that is not there or on a network file system, whose locks and syncs cannot be trusted."""
    if not path.parent.is_dir():
        raise StoreUnusable(f"no directory {path.parent}: is its volume mounted? Create it, or correct [storage] path")
    kind = _file_system(path.parent.resolve())
    if kind in _NETWORK or kind.startswith("fuse.ssh"):
        raise StoreUnusable(f"{path.parent} is a network file system ({kind}): put the database on a local disk")


def check_schema(connection: Any, path: Path, *, is_backup: bool = False) -> None:
    """Raise StoreUnusable unless the database has the schema that this program knows; a backup may have an older one.

    What to do is another thing where it is to be restored: a backup is neither made nor migrated.
    """
    no_database = f"{path} is not a database of kmp-smsd"
    other = "name another file, whole as 'kmp-smsd db backup' wrote it"
    try:
        applied = [one.name for one in MIGRATIONS.applied(sqlite_utils.Database(connection, execute_plugins=False))]
        pending = [one.name for one in MIGRATIONS.pending(sqlite_utils.Database(connection, execute_plugins=False))]
    except sqlite3.OperationalError as error:
        # One with a write-ahead log, as of cp instead of a backup, needs a file beside it, even to be read.
        cannot_open = is_backup and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CANTOPEN
        copy_it = ": copy it into a directory where you can write, and restore the copy" if cannot_open else ""
        raise StoreUnavailable(f"{path}: {error}{copy_it}") from error
    except sqlite3.DatabaseError as error:
        raise StoreUnusable(f"{no_database}: {error}{f': {other}' if is_backup else ''}") from error
    if connection.execute("PRAGMA auto_vacuum").fetchone()[0]:  # its pages are not those that an erasure knows
        raise StoreUnusable(f"{path} has auto_vacuum, which somebody set: run 'PRAGMA auto_vacuum = 0; VACUUM' on it")
    if not applied:
        make = "for a new one run 'kmp-smsd db migrate'"
        raise StoreUnusable(f"{no_database}: {other if is_backup else make}")
    if len(applied) + len(pending) > len(MIGRATIONS._migrations):
        older = "an older" if is_backup else "a"
        raise StoreUnusable(
            f"{path} was made by a newer kmp-smsd ({applied[-1]}): install that, or restore {older} backup"
        )
    if pending and not is_backup:
        raise StoreUnusable(f"{path} has an older schema ({applied[-1]}): run 'kmp-smsd db migrate'")


def known_schema() -> str:
    """The last migration that this program knows."""
    return str(MIGRATIONS._migrations[-1].name)


def schema(path: Path) -> str:
    """The last migration that was applied to the database, which may be older or newer than this program.

    Raises StoreUnusable where there is no database of ours.
    """
    if not path.is_file():
        raise StoreUnusable(f"no database at {path}")
    try:
        with opened(path) as connection:
            database = sqlite_utils.Database(connection, execute_plugins=False)
            applied = [one.name for one in MIGRATIONS.applied(database)]
    except sqlite3.OperationalError as error:
        raise StoreUnavailable(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise StoreUnusable(f"{path} is not a database of kmp-smsd: {error}") from error
    if not applied:
        raise StoreUnusable(f"{path} is not a database of kmp-smsd")
    return str(applied[-1])


def migrate(path: Path) -> Migrated:
    """Create the database, or bring it to this program's schema; a snapshot is made first."""
    check_place(path)
    with _exclusively(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, SHARED_MODE))
        try:
            with opened(path) as connection:
                migrated = _migrate(connection, path)
        except (sqlite3.OperationalError, OSError) as error:
            raise StoreUnavailable(f"{path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise StoreUnusable(f"{path} is not a database of kmp-smsd: {error}") from error
        sync(path)
    return migrated


def _migrate(connection: Any, path: Path) -> Migrated:
    database = sqlite_utils.Database(connection, execute_plugins=False)
    applied = MIGRATIONS.applied(database)
    pending = tuple(one.name for one in MIGRATIONS.pending(database))
    if len(applied) + len(pending) > len(MIGRATIONS._migrations):
        raise StoreUnusable(f"{path} was made by a newer kmp-smsd ({applied[-1].name}): install that one")
    if not applied and set(database.table_names()) - {MIGRATIONS.migrations_table}:
        raise StoreUnusable(f"{path} is a database of something else: correct [storage] path")
    snapshot = None
    if applied and pending:
        snapshot = _beside(path, f"before-{pending[0]}")
        _copy(connection, snapshot)
        sync(snapshot)
    os.chmod(path, SHARED_MODE)
    connection.execute("PRAGMA journal_mode = WAL")
    MIGRATIONS.apply(database)
    return Migrated(pending, snapshot)


def restore(
    path: Path, source: Path, now: int, *, public_half: str | None = None, other_master_key: bool = False
) -> Restored:
    """Put the backup `source` in the place of `path`, and want every row again at a new version.

    `now` is Unix milliseconds, `public_half` the fingerprint of the configured one. Unless `other_master_key` is said,
    a backup whose keys are sealed to another one than that, or than the present database's, is NotPossible.

    All of it is done on a copy beside `path`, which then takes its place in one step. The replaced database is kept.
    """
    check_place(path)
    if not source.is_file():
        raise NotPossible(f"no backup {source}")
    with _exclusively(path):
        copy = path.with_name(path.name + ".restoring")
        _remove(copy)
        try:
            with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as original:
                check_schema(original, source, is_backup=True)
                if (missing := _cut_off(original, source)) > 0:  # SQLite takes what is missing of a page for zeros
                    raise NotPossible(
                        f"{source} is cut short by {counted(missing, 'octet')}: copy it again, or restore another"
                    )
                (verdict,) = original.execute("PRAGMA integrity_check(1)").fetchone()
                if verdict != "ok":
                    raise NotPossible(f"{source} is damaged: {verdict.splitlines()[-1]}: restore another backup")
                sealed_to = _master_key(original)
                if not other_master_key:
                    _check_master_key(original, source, public_half, path)
                _copy(original, copy)
            with closing(connect(copy)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                MIGRATIONS.apply(sqlite_utils.Database(connection, execute_plugins=False))
            with closing(Database(copy)) as database:
                wanted_again = Renewing(database).want_again(now, step_rows=RESTORE_STEP_ROWS)
                Replies(database).abandon(now)
                database.scrubber.scrub()
            os.chmod(copy, SHARED_MODE)
            previous = _set_aside(path, now)
            sync(copy)
            try:
                os.replace(copy, path)
            except OSError:
                if previous is not None:
                    previous.unlink()
                raise
            sync(path)
        except (sqlite3.DatabaseError, OSError) as error:
            raise StoreUnavailable(f"{source} could not be restored as {path}: {error}") from error
        finally:
            _remove(copy)
    return Restored(wanted_again, previous, sealed_to)


def _cut_off(connection: Any, path: Path) -> int:
    """How many octets are missing at the end of the database `path`; with a log beside it, that cannot be told."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page_octets,) = connection.execute("PRAGMA page_size").fetchone()
    return 0 if log_of(path).exists() else max(0, int(pages) * int(page_octets) - path.stat().st_size)


def _copy(connection: Any, target: Path) -> None:
    """Copy the database into a new file that only we may read; where that fails, nothing is left of it."""
    # VACUUM INTO takes an empty file; what SQLite makes beside it gets its mode.
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        connection.execute("VACUUM INTO ?", (str(target),))
    except BaseException:  # an interrupt too
        _remove(target)
        raise


def _remove(copy: Path) -> None:
    for suffix in _MADE_WITH_A_COPY:
        copy.with_name(copy.name + suffix).unlink(missing_ok=True)


@contextmanager
def _exclusively(path: Path) -> Iterator[None]:
    with closing(SchemaLock(path, exclusive=True)):
        yield


def _check_master_key(original: Any, source: Path, public_half: str | None, path: Path) -> None:
    """Keys that this installation cannot open are another one's, or from before its master key was replaced."""
    sealed_to = _master_key(original)
    for ours, known in (("the configured public half is", public_half), (f"{path} has", _present_master_key(path))):
        if sealed_to is not None and known is not None and sealed_to != known:
            raise NotPossible(
                f"the keys in {source} are sealed to master key {sealed_to}, {ours} {known}: is it the backup of"
                " another installation, or from before 'kmp-smsd master-key rotate'? With both halves of its master key"
                " at hand, say --other-master-key"
            )


def _present_master_key(path: Path) -> str | None:
    """That of the database to be replaced; None where it has none, or is missing or damaged."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=0)) as present:
            return _master_key(present)
    except sqlite3.DatabaseError:
        return None


def _master_key(connection: Any) -> str | None:
    found = connection.execute("SELECT master_key FROM store").fetchone()
    return None if found is None else found[0]


def _set_aside(path: Path, now: int) -> Path | None:
    """Keep the present database under another name, its log folded in: a foreign log beside a database destroys it.

    Exclusive locking proves that nobody reads it either (a backup, a shell); closing it then removes log and index.
    None where there is no database: whoever removed or moved it may have left its log.
    """
    previous = _beside(path, time.strftime("before-restore-%Y%m%dT%H%M%SZ", time.gmtime(now / 1000)))
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


def _beside(path: Path, what: str) -> Path:
    """A name for a copy; one that is not taken."""
    stem = f"{path.name}.{what}"
    names = chain([stem], (f"{stem}.{number}" for number in count(2)))
    return next(one for one in map(path.with_name, names) if not one.exists())


def _file_system(directory: Path) -> str:
    """The type of the file system that `directory` lies on, as the kernel names it; '' where it does not say."""
    best, kind = "", ""
    for line in _mounts().splitlines():
        fields, _, rest = line.partition(" - ")
        mount_point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields.split()[4])
        if len(mount_point) >= len(best) and directory.is_relative_to(mount_point):
            best, kind = mount_point, rest.split()[0]
    return kind


def _mounts() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
