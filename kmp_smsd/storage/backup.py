"""Copying the database while everything goes on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.domain.shown import shown
from kmp_smsd.storage.checkpoint import opened
from kmp_smsd.storage.durable import sync, synced_meanwhile
from kmp_smsd.storage.errors import NotPossible, StoreUnavailable
from kmp_smsd.storage.locks import SchemaLock
from kmp_smsd.storage.schema import check_schema


def backup(path: Path, target: Path) -> int:
    """Write a consistent copy to `target`, which must not exist, while everything goes on; its size in octets."""
    try:
        if os.path.lexists(target):
            raise FileExistsError
        if not target.parent.is_dir():
            raise NotPossible(f"no directory {shown(str(target.parent))}: create it, or name another file")
        with _partial(target) as partial:
            with closing(SchemaLock(path, exclusive=False)), opened(path) as connection:
                check_schema(connection, path)
                with synced_meanwhile(partial):
                    connection.execute("VACUUM INTO ?", (str(partial),))
            sync(partial)
            _name(partial, target)
        sync(target)
        return target.stat().st_size
    except FileExistsError:
        raise NotPossible(f"{shown(str(target))} exists: name another file") from None
    except (sqlite3.OperationalError, OSError) as error:
        why = getattr(error, "strerror", None) or error
        raise StoreUnavailable(f"{shown(str(target))}: {why}") from error
    except sqlite3.DatabaseError as error:
        raise StoreUnavailable(f"{path}: {error}") from error


def _name(partial: Path, target: Path) -> None:
    """Give the whole copy its name, but never over a file that appeared meanwhile: then FileExistsError."""
    try:
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError:  # no hard links, as on vfat; which error says so depends on the file system
        # Who creates the name may replace it. One that is killed between the two leaves an empty file.
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            os.replace(partial, target)
        except BaseException:  # an interrupt too: an empty file must not pass for a backup
            with suppress(OSError):
                target.unlink()
            raise


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """An empty file beside `target` that only we use and read; it is gone afterwards. VACUUM INTO takes it so."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix="kmp-smsd-backup.", suffix=".partial")
    os.close(descriptor)
    partial = target.with_name(os.path.basename(name))
    try:
        yield partial
    finally:
        # Where the disk is full, SQLite leaves its journal.
        for one in (partial, partial.with_name(partial.name + "-journal")):
            with suppress(OSError):
                one.unlink()
