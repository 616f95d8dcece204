"""When the log is moved, by whom, and who is told where it cannot be."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage import Store, checkpoint, open_store, write_ahead_log
from kmp_smsd.storage.connection import PAGE_OCTETS, connect
from kmp_smsd.storage.log_limits import LogLimits
from tests.storage.log_by_hand import FRAME_OCTETS, CommittedMeanwhile, add, log_of, registered


def test_log_that_grows_because_it_cannot_be_moved_is_told_of_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limits = LogLimits(shared=1 << 40, large=20 * FRAME_OCTETS, finish=0, most=1 << 40)
    monkeypatch.setattr(write_ahead_log, "log_limits", lambda _: limits)
    monkeypatch.setattr(write_ahead_log, "LOOK_EVERY_S", 0.0)
    store = open_store(path, checkpoint_aside=True)
    checkpointer = store._database._log._checkpointer
    assert checkpointer is not None
    failed = threading.Semaphore(0)
    with monkeypatch.context() as patch:

        def failing(*_: object) -> None:
            failed.release()
            raise OSError(5, "Input/output error")

        patch.setattr(checkpoint, "move_log", failing)
        for first in range(0, 5_000, 1_000):
            add(store, first, 1_000)
            assert failed.acquire(timeout=60)
        checkpointer.close()
    assert caplog.text.count("its log cannot be moved into it") == 1
    store.close()


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), sqlite3.OperationalError("disk I/O error"), MemoryError()]
)
def test_who_moves_the_log_goes_on_after_each_failure_and_tells_of_the_first_of_a_row(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    outcomes: Iterator[Exception | None] = iter([error, error, None, error])
    moved = threading.Semaphore(0)
    woken_again: list[bool] = []

    def move(*_: object) -> None:
        woken_again.append(checkpointer._wanted.is_set())
        moved.release()
        if (outcome := next(outcomes)) is not None:
            raise outcome

    monkeypatch.setattr(checkpoint, "move_log", move)
    connection = connect(path)
    checkpointer = checkpoint.Checkpointer(connection, path)
    for _ in range(4):
        checkpointer.wake()
        assert moved.acquire(timeout=20)
    checkpointer.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):  # as the last one it would move the log at our end
        connection.execute("SELECT 1")
    assert woken_again == [False] * 4
    assert caplog.text.count("its log cannot be moved into it") == 2


def test_database_that_is_longer_than_its_pages_grows_by_nothing(path: Path) -> None:
    with open_store(path) as store:
        os.truncate(path, path.stat().st_size + 10 * PAGE_OCTETS)  # by a stranger that was killed, say
        add(store, 0, 1)
        assert store._database.growth() == 0
        assert store._database.empty_log()


def test_log_is_moved_only_where_the_disk_has_room_for_all_of_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried all the same, it would take the last room of who answers messages, if only for a moment."""
    with open_store(path) as store:
        add(store, 0, 3_000)
        before, octets = path.stat().st_size, store._database.growth()
        monkeypatch.setattr(checkpoint, "free_octets", lambda _: octets - 1)
        with pytest.raises(OSError, match="No space left on device"):
            checkpoint.move_log(store._database.connection, path, checkpoint.PASSIVE)
        monkeypatch.setattr(checkpoint, "free_octets", lambda _: octets)
        checkpoint.move_log(store._database.connection, path, checkpoint.PASSIVE)
        assert path.stat().st_size == before + octets


def test_what_was_committed_since_is_not_moved_to_where_no_zeros_are(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(path) as store, open_store(path) as other:
        add(store, 0)
        passively = checkpoint._move_passively

        def then_committed(*what: Any) -> Any:
            moved = passively(*what)
            add(other, 100, 3_000)
            return moved

        monkeypatch.setattr(checkpoint, "_move_passively", then_committed)
        hindered, _, _ = checkpoint.move_log(store._database.connection, path, checkpoint.TRUNCATE)
        assert hindered
        assert other._database.growth() > 0


def test_log_is_moved_by_one_at_a_time(path: Path) -> None:
    with open_store(path) as store, path.with_name("kmp.db.moving").open("wb") as lock:
        add(store, 0)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert checkpoint.move_log(store._database.connection, path, checkpoint.PASSIVE) == (1, 0, 0)
        assert checkpoint.in_log(store._database.connection)[2] == 0


def test_log_that_is_too_long_begins_anew_although_somebody_still_reads_as_it_is_moved(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = LogLimits(shared=1 << 40, large=0, finish=0, most=10 * FRAME_OCTETS)
    monkeypatch.setattr(write_ahead_log, "LOOK_EVERY_S", 0.0)
    with open_store(path) as store, closing(connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM registrations").fetchall()
        add(store, 0)
        ending: Any = CommittedMeanwhile(
            store._database.connection, lambda: reader.execute("ROLLBACK"), checkpoint.RESTART
        )
        monkeypatch.setattr(write_ahead_log, "log_limits", lambda _: limits)
        monkeypatch.setattr(store._database._log, "_connection", ending)
        add(store, 100)
        _, pages, moved = checkpoint.in_log(store._database.connection)
        assert pages == moved
        add(store, 200, 1)
        assert checkpoint.in_log(store._database.connection)[1] < pages
        assert registered(store) == 201


def test_wait_for_readers_that_was_in_vain_is_followed_by_a_pause_however_long_it_took(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    moves: list[str] = []

    def in_vain(how: str) -> checkpoint.Moved:
        nonlocal now
        now += 1.0
        moves.append(how)
        return 1, 1, 0

    monkeypatch.setattr(write_ahead_log, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(write_ahead_log, "log_limits", lambda _: LogLimits(shared=0, large=0, finish=0, most=0))
    with open_store(path) as store:
        monkeypatch.setattr(store._database._log, "_move_all", in_vain)
        add(store, 0)
        add(store, 100)
        assert moves == [checkpoint.RESTART]
        now += 1.0
        add(store, 200)
        assert moves == [checkpoint.RESTART] * 2


def test_log_that_is_too_long_is_looked_at_again_as_soon_as_nobody_else_moves_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_ahead_log, "time", SimpleNamespace(monotonic=lambda: 0.0))
    monkeypatch.setattr(write_ahead_log, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(write_ahead_log, "log_limits", lambda _: LogLimits(shared=0, large=0, finish=0, most=0))
    with open_store(path) as store:
        with path.with_name("kmp.db.moving").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            add(store, 0)
        for first in (100, 200):  # and again as soon as it has been moved
            add(store, first)
            _, pages, moved = checkpoint.in_log(store._database.connection)
            assert pages == moved > 0


def moved_in(store: Store) -> tuple[int, int]:
    """How many octets are in the log, and how many of them have been moved."""
    _, pages, moved = checkpoint.in_log(store._database.connection)
    return pages * PAGE_OCTETS, moved * PAGE_OCTETS


def test_who_leaves_room_moves_a_log_of_which_more_than_so_much_was_not_moved(path: Path) -> None:
    with open_store(path) as store, closing(connect(path)) as reader:
        add(store, 0)
        octets, _ = moved_in(store)
        reader.execute("BEGIN")  # so that the log goes on
        reader.execute("SELECT count(*) FROM registrations").fetchall()
        store._database.lighten_log(octets)
        assert moved_in(store) == (octets, 0)
        store._database.lighten_log(octets - 1)
        assert moved_in(store) == (octets, octets)
        add(store, 100)
        reader.execute("ROLLBACK")
        more, _ = moved_in(store)
        assert more > octets
        store._database.lighten_log(more - octets)
        assert moved_in(store) == (more, octets)


def test_log_is_not_moved_while_it_is_small_however_long_its_file_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_ahead_log, "LOOK_EVERY_S", 0.0)
    with open_store(path) as store:
        add(store, 0, 3_000)
        size = log_of(path).stat().st_size
        with store._database.alone():
            checkpoint.move_log(store._database.connection, path, checkpoint.RESTART)
        limits = LogLimits(shared=1 << 40, large=size // 2, finish=1 << 40, most=1 << 40)
        monkeypatch.setattr(write_ahead_log, "log_limits", lambda _: limits)
        add(store, 3_000)
        assert log_of(path).stat().st_size == size
        octets, moved = moved_in(store)
        assert 0 == moved < octets < size // 2


def test_last_of_a_large_log_is_moved_by_who_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it begins anew; more than that is for who moves it beside the writers."""
    monkeypatch.setattr(write_ahead_log, "LOOK_EVERY_S", 0.0)
    with open_store(path) as store:
        add(store, 0)
        octets, _ = moved_in(store)
        for finish, moved in ((octets - 1, False), (1 << 40, True)):
            limits = LogLimits(shared=1 << 40, large=octets, finish=finish, most=1 << 40)
            monkeypatch.setattr(write_ahead_log, "log_limits", lambda _, limits=limits: limits)
            store._database.connection.execute("UPDATE subscribers SET last_heard = 2 WHERE number = 1")
            with store._database.transaction():
                pass
            assert (moved_in(store)[1] > 0) == moved


@pytest.mark.parametrize("error", [OSError(5, "I/O error"), sqlite3.OperationalError("I/O error"), MemoryError()])
def test_commit_stands_although_the_log_cannot_be_looked_at(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(_: Path) -> None:
        raise error

    monkeypatch.setattr(write_ahead_log, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(write_ahead_log, "log_limits", failing)
    with open_store(path) as store:
        add(store, 0)
        assert registered(store) == 100
