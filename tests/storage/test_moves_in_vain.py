"""A move of the log that failed or never ended: nothing of it is trusted, and nobody loses what was committed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage import Store, checkpoint, open_store
from kmp_smsd.storage.connection import connect
from kmp_smsd.storage.locks import Mark
from tests.storage.log_by_hand import FRAME_OCTETS, STRANGER, CommittedMeanwhile, add, log_of, registered

KILLED_MOVING = """
import os, sys
from pathlib import Path
from kmp_smsd.storage import checkpoint, open_store
path = Path(sys.argv[1])
store = open_store(path)
os.fsync = lambda _: os._exit(9)
checkpoint.move_log(store._database.connection, path, checkpoint.PASSIVE)
"""


def move_in_vain(
    store: Store, path: Path, error: BaseException | None = None, meanwhile: Callable[[], object] = lambda: None
) -> None:
    """Move the log to a disk that tells of an error when it is synced, after `meanwhile`."""
    told = error or OSError(5, "Input/output error")

    def failing(_: int) -> None:
        meanwhile()
        raise told

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(type(told)):
            checkpoint.move_log(store._database.connection, path, checkpoint.PASSIVE)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_zeros_that_are_not_synced_are_cut_off(path: Path, error: BaseException) -> None:
    with open_store(path) as store:
        octets = path.stat().st_size
        add(store, 0, 3_000)
        move_in_vain(store, path, error)
        assert path.stat().st_size == octets
        assert registered(store) == 3_000


def test_zeros_are_not_cut_off_where_a_stranger_moved_the_log_meanwhile(path: Path) -> None:
    with open_store(path) as store, closing(connect(path)) as stranger:
        add(store, 0, 3_000)
        move_in_vain(store, path, meanwhile=lambda: stranger.execute("PRAGMA wal_checkpoint(PASSIVE)"))
        add(store, 3_000)  # over the log that was moved
    with open_store(path) as store:  # without the pages that a connection remembers
        assert registered(store) == 3_100
        assert store._database.rows("PRAGMA integrity_check") == [("ok",)]


def test_what_a_stranger_moved_by_halves_meanwhile_is_kept_for_who_reads_since(path: Path) -> None:
    with open_store(path) as store, closing(connect(path)) as stranger, closing(connect(path)) as reader:
        add(store, 0, 1_000)
        with closing(connect(path)) as before:
            before.execute("BEGIN")
            before.execute("SELECT count(*) FROM registrations").fetchall()
            add(store, 1_000, 300)  # so that the header's page is not moved

            def move() -> None:
                stranger.execute("PRAGMA wal_checkpoint(PASSIVE)")
                reader.execute("PRAGMA cache_size = 1")
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM store").fetchall()

            move_in_vain(store, path, meanwhile=move)
        assert reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert reader.execute("SELECT count(*) FROM registrations").fetchall() == [(1_300,)]


def test_what_was_moved_beside_a_reader_is_moved_again_where_the_disk_tells_that_it_failed(path: Path) -> None:
    with open_store(path) as store, closing(connect(path)) as reader:
        connection = store._database.connection
        add(store, 0, 1_000)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM registrations").fetchall()
        add(store, 1_000, 20)
        _, pages, moved = checkpoint.move_log(connection, path, checkpoint.PASSIVE)
        assert 0 < moved < pages
        reader.execute("ROLLBACK")
        move_in_vain(store, path)
        assert checkpoint.in_log(connection) == (0, pages, 0)
        log = log_of(path).read_bytes()
        with path.open("r+b") as database:  # what the disk lost
            for at in range(32, 32 + moved * FRAME_OCTETS, FRAME_OCTETS):
                database.seek((int.from_bytes(log[at : at + 4]) - 1) * 2048)
                database.write(bytes(2048))
        assert checkpoint.move_log(connection, path, checkpoint.PASSIVE) == (0, pages, pages)
    with open_store(path) as store:
        assert registered(store) == 1_020
        assert store._database.rows("PRAGMA integrity_check") == [("ok",)]


def move_by_halves(store: Store, path: Path) -> int:
    """Move what is in the log but for the last of it; the pages that were moved, without the one of the header."""
    connection = store._database.connection
    add(store, 0, 1_000)
    with closing(connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM registrations").fetchall()
        add(store, 1_000, 300)
        hindered, pages, moved = checkpoint.move_log(connection, path, checkpoint.PASSIVE)
    assert (hindered, 0 < moved < pages) == (0, True)
    return moved


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt(), MemoryError()])
def test_what_was_moved_before_the_header_s_page_is_not_cut_off(path: Path, error: BaseException) -> None:
    with open_store(path) as store:
        move_by_halves(store, path)
        octets = path.stat().st_size
        add(store, 2_000)  # which lengthens it
        move_in_vain(store, path, error)
        assert path.stat().st_size == octets
        assert checkpoint.in_log(store._database.connection)[2] == 0
    with open_store(path) as store:  # without the pages that a connection remembers
        assert registered(store) == 1_400
        assert store._database.rows("PRAGMA integrity_check") == [("ok",)]


def test_who_reads_since_before_keeps_what_was_moved_although_two_moves_failed(path: Path) -> None:
    with open_store(path) as store, closing(connect(path)) as reader:
        move_by_halves(store, path)
        reader.execute("PRAGMA cache_size = 1")
        reader.execute("BEGIN")  # with what was moved in the database, by its count
        reader.execute("SELECT count(*) FROM store").fetchall()
        for first in (2_000, 3_000):
            add(store, first)
            move_in_vain(store, path)
        assert reader.execute("SELECT count(*) FROM registrations").fetchall() == [(1_300,)]
        assert reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_what_was_moved_is_kept_although_who_distrusted_it_was_not_done(path: Path) -> None:
    killed = KILLED_MOVING.replace("lambda _: os._exit(9)", "lambda _, calls=iter([0, 1]): next(calls) and os._exit(9)")
    with open_store(path) as store, closing(connect(path)) as reader:
        connection = store._database.connection
        add(store, 0, 1_000)
        with closing(connect(path)) as before:
            before.execute("BEGIN")
            before.execute("SELECT count(*) FROM registrations").fetchall()
            add(store, 1_000, 300)  # so that the header's page is not moved
            assert subprocess.run([sys.executable, "-c", killed, path]).returncode == 9
        reader.execute("PRAGMA cache_size = 1")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM store").fetchall()

        def failing(*_: object) -> None:
            raise OSError(5, "Input/output error")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Mark, "remove", failing)
            with pytest.raises(OSError, match="Input/output error"):
                checkpoint.move_log(connection, path, checkpoint.PASSIVE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "free_octets", lambda _: -1)
            with pytest.raises(OSError, match="No space left"):
                checkpoint.move_log(connection, path, checkpoint.PASSIVE)
        assert reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert reader.execute("SELECT count(*) FROM registrations").fetchall() == [(1_300,)]


def test_nothing_is_cut_off_while_the_index_does_not_tell_what_was_moved(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(path) as store:
        move_by_halves(store, path)
        octets = path.stat().st_size
        path.with_name("kmp.db.moving").write_bytes(b"\0")
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "in_log", lambda _: (1, -1, -1))
            assert checkpoint.move_log(store._database.connection, path, checkpoint.PASSIVE) == (1, 0, 0)
        assert path.stat().st_size == octets
        assert moved_before(store, path) == 0


class SyncedInVain:
    """A connection for which the disk tells that it lost something when the log is to be emptied."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, how: str) -> sqlite3.Cursor:
        if how == checkpoint.TRUNCATE:
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(how)


def test_all_is_moved_again_where_emptying_the_log_tells_that_the_disk_failed(path: Path) -> None:
    with open_store(path) as store, closing(connect(path)) as reader:
        add(store, 0, 1_000)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM registrations").fetchall()
        store._database.connection.execute("UPDATE subscribers SET last_heard = 2 WHERE number <= 10")
        in_vain: Any = SyncedInVain(store._database.connection)
        with pytest.raises(sqlite3.OperationalError):
            checkpoint.move_log(in_vain, path, checkpoint.TRUNCATE)
        assert checkpoint.in_log(store._database.connection)[2] == 0


def moved_before(store: Store, path: Path) -> int:
    """Move the log; how much of it counted as moved before."""
    found: list[int] = []
    connection = store._database.connection
    watched: Any = CommittedMeanwhile(connection, lambda: found.append(checkpoint.in_log(connection)[2]))
    checkpoint.move_log(watched, path, checkpoint.PASSIVE)
    (moved,) = found
    return moved


def test_all_is_moved_again_after_who_was_killed_while_the_disk_may_have_told_it_that_it_failed(path: Path) -> None:
    with open_store(path) as store:
        moved = move_by_halves(store, path)
        assert subprocess.run([sys.executable, "-c", KILLED_MOVING, path]).returncode == 9
        assert checkpoint.in_log(store._database.connection)[2] > moved
        assert moved_before(store, path) == 0
        assert moved_before(store, path) > 0
        assert registered(store) == 1_300


def test_nothing_is_cut_off_nor_forgotten_while_a_stranger_moves_the_log(path: Path) -> None:
    with open_store(path) as store:
        moved = move_by_halves(store, path)
        add(store, 2_000, 1_000)
        growth = checkpoint.growth(store._database.connection, path)
        octets = path.stat().st_size
        command = [sys.executable, "-c", STRANGER, path]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stranger:
            assert stranger.stdin is not None
            assert stranger.stdout is not None
            assert stranger.stdout.readline() == b"locked\n"
            move_in_vain(store, path)
            assert path.stat().st_size == octets + growth
            assert checkpoint.in_log(store._database.connection)[2] == moved
            assert checkpoint.move_log(store._database.connection, path, checkpoint.PASSIVE) == (1, 0, 0)
            stranger.stdin.close()
        assert moved_before(store, path) == 0
        assert registered(store) == 2_300


def test_strangers_wait_while_we_ask_what_has_been_moved(path: Path) -> None:
    with open_store(path) as store:
        add(store, 0)
        try_lock = [sys.executable, "-c", STRANGER.replace("LOCK_EX", "LOCK_EX | fcntl.LOCK_NB"), path]
        look = checkpoint.in_log
        tried: list[int] = []

        def tried_after(connection: sqlite3.Connection) -> tuple[int, int, int]:
            found = look(connection)
            tried.append(subprocess.run(try_lock, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode)
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "in_log", tried_after)
            move_in_vain(store, path)
        tried.append(subprocess.run(try_lock, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode)
        assert tried == [0, 1, 0]  # before, while it counts, and afterwards


@pytest.mark.parametrize("page_octets", [512, 2_048, 65_536])  # the last one is written as 1
def test_database_reaches_as_far_as_its_header_says_whatever_its_pages_are(tmp_path: Path, page_octets: int) -> None:
    path = tmp_path / "pages.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA page_size = {page_octets}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE one (value)")
    log_of(path).touch()
    assert checkpoint._octets_moved(path, 0) == path.stat().st_size == 2 * page_octets


def test_database_reaches_as_far_as_its_header_says_although_less_of_the_log_was_moved_since(path: Path) -> None:
    with open_store(path) as store:
        add(store, 0, 1)
        assert 2048 * max(checkpoint.pages_in_log(path, 1, 2048)) < path.stat().st_size
        assert checkpoint._octets_moved(path, 1) == path.stat().st_size


def test_pages_of_all_frames_that_were_moved_are_known(path: Path) -> None:
    with open_store(path) as store:
        add(store, 0)
        frames = log_of(path).read_bytes()[32:]
        pages = [int.from_bytes(frames[begin : begin + 4], "big") for begin in range(0, len(frames), FRAME_OCTETS)]
        found = [checkpoint.pages_in_log(path, moved, 2048) for moved in range(len(pages) + 1)]
    assert found == [set(pages[:moved]) for moved in range(len(pages) + 1)]
    assert len(found[-1]) > 1


@pytest.mark.parametrize("octets_left", [0, 20, None], ids=["nothing is left", "a part of it is left", "it is zeros"])
def test_database_whose_header_is_lost_is_not_cut_off(path: Path, octets_left: int | None) -> None:
    with open_store(path) as store:
        path.with_name("kmp.db.moving").write_bytes(b"\0")  # as of who was killed
        whole = path.read_bytes()
        lost = bytes(100) + whole[100:] if octets_left is None else whole[:octets_left]
        path.write_bytes(lost)
        with suppress(sqlite3.DatabaseError):  # an empty file is an empty database
            checkpoint.move_log(store._database.connection, path, checkpoint.PASSIVE)
        assert path.read_bytes() == lost
        path.write_bytes(whole)


def test_zeros_of_who_was_killed_are_cut_off_by_the_next_one(path: Path) -> None:
    with open_store(path) as store:
        octets = path.stat().st_size
        add(store, 0, 3_000)
        subprocess.run([sys.executable, "-c", KILLED_MOVING, path], check=False)
        assert path.stat().st_size > octets
        move_in_vain(store, path)
        assert path.stat().st_size == octets
        assert registered(store) == 3_000


@pytest.mark.parametrize("grows", [True, False], ids=["it grows", "it does not"])
def test_zeros_are_synced_before_the_log_is_moved_and_what_was_moved_after_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, grows: bool
) -> None:
    with open_store(path) as store:
        move_by_halves(store, path)
        if grows:
            add(store, 2_000, 1_000)
        done: list[object] = []
        monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(os.fstat(descriptor).st_ino))
        watched: Any = CommittedMeanwhile(store._database.connection, lambda: done.append("moved"))
        checkpoint.move_log(watched, path, checkpoint.PASSIVE)
        synced = path.stat().st_ino
        assert done == [synced, "moved", synced][not grows :]


def test_what_emptying_the_log_moved_is_synced_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(path) as store:
        add(store, 0)
        done: list[str] = []
        monkeypatch.setattr(os, "fsync", lambda _: done.append("synced"))
        watched: Any = CommittedMeanwhile(
            store._database.connection, lambda: done.append("emptied"), checkpoint.TRUNCATE
        )
        checkpoint.move_log(watched, path, checkpoint.TRUNCATE)
        assert done[-2:] == ["emptied", "synced"]
