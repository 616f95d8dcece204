"""Room on the database's volume: who writes many rows leaves some of it to the messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage.database import Database
from kmp_smsd.storage.errors import NoRoom, StoreUnavailable
from kmp_smsd.storage.log_limits import log_limits
from kmp_smsd.storage.volume import free_octets, reserve_octets


@contextmanager
def leaving_room(database: Database, part: float = 1.0) -> Iterator[sqlite3.Connection]:
    """A transaction for one step of many rows: it leaves the messages so much of what is theirs.

    What is in the log alone has its room in the database first. Raises NoRoom where they would have less.
    """
    with database.faults():
        reserve, shared = reserve_octets(database.path.parent), log_limits(database.path.parent).shared
        _empty_log_where_it_helps(database, reserve, reserve * part)
        _check(database, reserve * part)
    database.lighten_log(shared)
    with database.transaction() as connection:
        _check(database, reserve * part)  # others may have taken it while we waited
        yield connection


@contextmanager
def with_short_log(database: Database) -> Iterator[sqlite3.Connection]:
    """A transaction of what is not refused for lack of room; where possible, the log is moved as in `leaving_room`."""
    with suppress(StoreUnavailable, OSError):
        database.lighten_log(log_limits(database.path.parent).shared)
    with database.transaction() as connection:
        yield connection


def _empty_log_where_it_helps(database: Database, reserve: int, wanted: float) -> None:
    growth = database.growth()
    left = free_octets(database.path.parent) - growth
    if not left < wanted <= left + database.log_path.stat().st_size:
        return
    if left >= reserve // 4 or not growth:  # else moving it would leave next to nothing meanwhile
        database.lighten_log(0)
        with database.alone():
            database.empty_log()


def _check(database: Database, wanted: float) -> None:
    left = free_octets(database.path.parent) - database.growth()
    if left < wanted:
        raise NoRoom(
            f"{database.path.parent} has {max(0, left) // 1_000_000:,} MB left beside the database's log,"
            " which messages need: make room, then try again"
        )
