"""A disk that takes no more: what was written by halves is cut off, and the log stays whole."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage import StoreUnavailable, checkpoint, open_store, write_ahead_log
from kmp_smsd.storage.backup import backup
from kmp_smsd.storage.connection import connect
from kmp_smsd.storage.migrating import migrate
from kmp_smsd.storage.restoring import restore
from kmp_smsd.storage.schema import applied_schema
from tests.storage.log_by_hand import FRAME_OCTETS, add, log_of, no_file_grows_beyond, registered
from tests.storage.stock import NOW

IOERR_WRITE = sqlite3.SQLITE_IOERR | 3 << 8  # which the module does not name
KILLED = """
import os, sys
from pathlib import Path
from kmp_smsd.storage import open_store
from kmp_smsd.storage.subscribers import Registration
store = open_store(Path(sys.argv[1]))
store.registrations.add([Registration(f"861{number:010}", "meter") for number in range(3_000)], 1)
os._exit(0)
"""


def test_what_a_failed_commit_left_of_the_log_is_cut_off(path: Path) -> None:
    with open_store(path) as store:
        add(store, 0)
        good = log_of(path).stat().st_size
        with no_file_grows_beyond(good + 2 * FRAME_OCTETS), pytest.raises(StoreUnavailable):
            add(store, 100)
        assert log_of(path).stat().st_size == good
        add(store, 200)
        assert registered(store) == 200


def test_log_that_could_not_be_cut_is_cut_before_anybody_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(path) as store, open_store(path) as other:
        add(store, 0)
        good = log_of(path).stat().st_size

        def failing(*_: object) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "truncate", failing)
            with no_file_grows_beyond(good + 2 * FRAME_OCTETS), pytest.raises(StoreUnavailable):
                add(store, 100)
            for one in (store, other):
                with pytest.raises(StoreUnavailable, match="Input/output error"):
                    add(one, 100)
            assert registered(other) == 100
        cut: list[int] = []
        truncate = os.truncate
        monkeypatch.setattr(os, "truncate", lambda file, octets: cut.append(octets) or truncate(file, octets))
        add(other, 100)
        assert cut == [good]
        add(store, 200)
        assert (cut, registered(store)) == ([good], 300)


def test_log_is_cut_although_the_mark_for_others_cannot_be_left(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with open_store(path) as store:
        add(store, 0)
        good = log_of(path).stat().st_size
        with monkeypatch.context() as patch:
            patch.setattr(os, "ftruncate", failing)
            with no_file_grows_beyond(good + 2 * FRAME_OCTETS), pytest.raises(StoreUnavailable, match="disk I/O error"):
                add(store, 100)
        assert log_of(path).stat().st_size == good


def test_what_another_connection_of_ours_left_under_our_lock_is_cut_off(path: Path) -> None:
    """As the scrubber commits."""
    with open_store(path) as store:
        add(store, 0)
        good = log_of(path).stat().st_size

        def commit() -> None:
            with store._database.alone(), closing(connect(path)) as another:
                another.execute("UPDATE subscribers SET last_heard = 2")

        with no_file_grows_beyond(good + FRAME_OCTETS), pytest.raises(StoreUnavailable):
            commit()
        assert log_of(path).stat().st_size == good
        commit()
        assert registered(store) == 100


def test_commit_of_somebody_who_does_not_know_of_our_lock_is_not_cut_off(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(path) as store, closing(connect(path)) as stranger:
        add(store, 0)
        look = write_ahead_log.in_log

        def meanwhile(connection: sqlite3.Connection) -> tuple[int, int, int]:
            found = look(connection)
            stranger.execute(
                """INSERT INTO subscribers (mdn, last_heard) VALUES ('8613999999999', 1)
                   ON CONFLICT (mdn) DO UPDATE SET last_heard = last_heard + 1"""
            )
            return found

        good = log_of(path).stat().st_size
        with monkeypatch.context() as patch:
            patch.setattr(write_ahead_log, "in_log", meanwhile)
            with no_file_grows_beyond(good + 4 * FRAME_OCTETS), pytest.raises(StoreUnavailable):
                add(store, 100)
        add(store, 100)
        assert registered(store) == 200
        assert store._database.rows("SELECT count(*) FROM subscribers") == [(201,)]
        assert store._database.rows("PRAGMA integrity_check") == [("ok",)]


def test_database_that_could_not_take_the_log_is_as_long_as_before(path: Path) -> None:
    with open_store(path) as store:
        octets = path.stat().st_size
        add(store, 0, 3_000)
        with no_file_grows_beyond(octets + 3 * 2048), pytest.raises(OSError, match="File too large"):
            store._database.empty_log()
        assert path.stat().st_size == octets
        assert registered(store) == 3_000
        assert store._database.empty_log()
        assert path.stat().st_size > octets
        assert registered(store) == 3_000


@pytest.mark.parametrize("ask", [applied_schema, migrate], ids=["schema", "migrate"])
def test_log_that_stayed_is_not_moved_by_halves_by_a_command(path: Path, ask: Callable[[Path], object]) -> None:
    subprocess.run([sys.executable, "-c", KILLED, path], check=True)
    octets = path.stat().st_size
    assert log_of(path).stat().st_size > octets
    with no_file_grows_beyond(octets + 3 * 2048):
        ask(path)
    assert path.stat().st_size == octets
    with open_store(path) as store:
        assert registered(store) == 3_000


def test_backup_that_fails_names_what_is_to_be_looked_at(path: Path) -> None:
    target = path.with_name("saved.db")
    with open_store(path) as store:
        add(store, 0, 1_000)
    with no_file_grows_beyond(3 * 2048), pytest.raises(StoreUnavailable, match=r"/saved\.db: disk I/O error"):
        backup(path, target)
    with path.open("r+b") as database:
        middle = path.stat().st_size // 2
        database.seek(middle)
        database.write(b"\x8f" * middle)
    with pytest.raises(StoreUnavailable, match=r"/kmp\.db: database disk image is malformed"):
        backup(path, target)
    assert not target.exists()


def test_database_whose_log_cannot_be_moved_is_not_replaced_by_a_backup(path: Path) -> None:
    backup(path, path.with_name("saved.db"))
    subprocess.run([sys.executable, "-c", KILLED, path], check=True)
    with no_file_grows_beyond(path.stat().st_size + 3 * 2048), pytest.raises(StoreUnavailable, match="disk I/O error"):
        restore(path, path.with_name("saved.db"), NOW)
    with open_store(path) as store:
        assert registered(store) == 3_000


class TruncatedInVain:
    """A connection whose log is moved and begun anew, but cannot be made shorter."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, how: str) -> sqlite3.Cursor:
        cursor = self._connection.execute(how)
        if how == checkpoint.TRUNCATE:
            cursor.fetchall()
            raise sqlite3.OperationalError("disk I/O error")
        return cursor


def test_log_that_cannot_be_made_shorter_costs_the_database_nothing(path: Path) -> None:
    with open_store(path) as store:
        add(store, 0, 3_000)
        in_vain: Any = TruncatedInVain(store._database.connection)
        with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
            checkpoint.move_log(in_vain, path, checkpoint.TRUNCATE)
    with open_store(path) as store:
        assert registered(store) == 3_000


@pytest.mark.parametrize("raised_from_it", [False, True], ids=["as it is", "another from it"])
@pytest.mark.parametrize(
    ("code", "cuts", "moves"),
    [(sqlite3.SQLITE_FULL, 1, 1), (IOERR_WRITE, 1, 0), (sqlite3.SQLITE_CONSTRAINT, 0, 0)],
)
def test_log_is_moved_at_once_where_the_disk_was_full_and_not_where_it_is_broken(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int, cuts: int, moves: int, raised_from_it: bool
) -> None:
    done: list[str] = []
    error = sqlite3.OperationalError("not written")
    error.sqlite_errorcode = code
    raised = StoreUnavailable("not written") if raised_from_it else error
    raised.__cause__ = error if raised_from_it else None
    with open_store(path) as store:
        monkeypatch.setattr(store._database._log, "cut", lambda: done.append("cut"))
        monkeypatch.setattr(write_ahead_log, "move_log", lambda *_: done.append("moved"))
        with pytest.raises(StoreUnavailable), store._database.transaction():
            raise raised
    assert done == ["cut"] * cuts + ["moved"] * moves
