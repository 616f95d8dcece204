"""A disk that takes no more, and says so late: what was committed before and afterwards is on it."""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage import Store, StoreUnavailable, checkpoint, descriptors, open_store, write_ahead_log
from kmp_smsd.storage.backup import backup
from kmp_smsd.storage.connection import PAGE_OCTETS, connect
from kmp_smsd.storage.inbox import Inbox
from kmp_smsd.storage.locks import Mark
from kmp_smsd.storage.log_limits import LogLimits
from kmp_smsd.storage.migrating import migrate
from kmp_smsd.storage.received import Settled
from kmp_smsd.storage.restoring import restore
from kmp_smsd.storage.schema import applied_schema
from kmp_smsd.storage.subscribers import Registration
from tests.mounting import require_root
from tests.storage.stock import NOW, A, sync

FRAME_OCTETS = 24 + 2048
IOERR_WRITE = sqlite3.SQLITE_IOERR | 3 << 8  # which the module does not name
COUNT = """
import sys
from pathlib import Path
from kmp_smsd.storage import open_store
with open_store(Path(sys.argv[1])) as store:
    assert store._database.rows("PRAGMA integrity_check") == [("ok",)]
    print(store._database.rows("SELECT count(*) FROM registrations")[0][0])
"""
KILLED = """
import os, sys
from pathlib import Path
from kmp_smsd.storage import open_store
from kmp_smsd.storage.subscribers import Registration
store = open_store(Path(sys.argv[1]))
store.registrations.add([Registration(f"861{number:010}", "meter") for number in range(3_000)], 1)
os._exit(0)
"""


def log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def add(store: Store, first: int, count: int = 100) -> None:
    store.registrations.add([Registration(f"861{number:010}", "meter") for number in range(first, first + count)], NOW)


def registered(store: Store) -> int:
    ((count,),) = store._database.rows("SELECT count(*) FROM registrations")
    return int(count)


@contextmanager
def no_file_grows_beyond(octets: int) -> Iterator[None]:
    """Writes behind `octets` of any file fail, those before it succeed."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


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


def test_log_stays_where_the_last_one_to_close_cannot_move_it(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    octets = path.stat().st_size
    store = open_store(path)
    add(store, 0, 3_000)
    with no_file_grows_beyond(octets + 3 * 2048):
        store.close()
    assert path.stat().st_size == octets
    assert "its log cannot be moved into it" in caplog.text
    with open_store(path) as store:
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
    checkpointer = checkpoint.Checkpointer(connect(path), path)
    for _ in range(4):
        checkpointer.wake()
        assert moved.acquire(timeout=20)
    checkpointer.close()
    assert woken_again == [False] * 4
    assert caplog.text.count("its log cannot be moved into it") == 2


def test_log_is_moved_by_one_at_a_time(path: Path) -> None:
    with open_store(path) as store, path.with_name("kmp.db.moving").open("wb") as lock:
        add(store, 0)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert checkpoint.move_log(store._database.connection, path, checkpoint.PASSIVE) == (1, 0, 0)
        assert checkpoint.in_log(store._database.connection)[2] == 0


def test_who_closes_waits_for_who_moves_the_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(path)
    add(store, 0)
    locked: list[int] = []
    flock = fcntl.flock

    def noted(lock: int, how: int) -> None:
        if os.path.realpath(f"/proc/self/fd/{lock}") == str(path.with_name("kmp.db.moving")):
            locked.append(how)
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", noted)
    store.close()
    assert locked == [fcntl.LOCK_EX]


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


@pytest.fixture
def thin_disk(tmp_path: Path) -> Iterator[Disk]:
    require_root()
    disk = Disk(tmp_path)
    try:
        disk.mount()
        yield disk
    finally:
        disk.unmount()


class Disk:
    """A real ext4 on a volume that promises more than there is: its image lies on a small tmpfs."""

    def __init__(self, directory: Path) -> None:
        self.outer, self.inner, self.copy = directory / "outer", directory / "disk", directory / "copy"
        self.image = self.outer / "image"

    def mount(self) -> None:
        for mount_point in (self.outer, self.inner, self.copy):
            mount_point.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", self.outer], check=True)
        self.image.write_bytes(bytes(48 << 20))
        options = "nodiscard,lazy_itable_init=0,lazy_journal_init=0"
        subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-m", "0", "-E", options, self.image], check=True)
        self.image.write_bytes(self.image.read_bytes())  # its own tables and journal have their room, without holes
        subprocess.run(["mount", "-o", "loop", self.image, self.inner], check=True)
        device = subprocess.run(
            ["findmnt", "-n", "-o", "SOURCE", self.inner], capture_output=True, text=True, check=True
        ).stdout.strip()
        # So each write fails or succeeds as a whole: the driver calls a short one a success.
        Path(f"/sys/block/{Path(device).name}/queue/max_sectors_kb").write_text("4")

    def unmount(self) -> None:
        for mount_point in (self.copy, self.inner, self.outer):
            subprocess.run(["umount", "--lazy", mount_point], check=False, stderr=subprocess.DEVNULL)

    def fail(self) -> None:
        """From now on, what the file system has not written before cannot be written."""
        os.sync()  # what was removed is free now
        subprocess.run(["fstrim", self.inner], check=True)
        with open(self.outer / "ballast", "wb", buffering=0) as ballast:
            for octets in (1 << 20, 4096):
                try:
                    while ballast.write(b"\xff" * octets):
                        pass
                except OSError:
                    continue

    def mend(self) -> None:
        (self.outer / "ballast").unlink()

    def after_a_power_cut(self, count: str) -> int:
        """What the program `count` would print."""
        cut = self.copy.with_name("cut.image")
        shutil.copy(self.image, cut)
        subprocess.run(["mount", "-o", "loop", cut, self.copy], check=True)
        try:  # in a process of its own, which leaves no file of the copy open
            counted = subprocess.run(
                [sys.executable, "-c", count, self.copy / "kmp.db"], capture_output=True, check=True
            )
            return int(counted.stdout)
        finally:
            subprocess.run(["umount", self.copy], check=True)
            cut.unlink()


@pytest.mark.parametrize("large_pages", [10_000, 40], ids=["the log grows", "the database grows"])
def test_everything_confirmed_is_on_a_disk_that_failed_for_a_while(
    thin_disk: Disk, monkeypatch: pytest.MonkeyPatch, large_pages: int
) -> None:
    limits = LogLimits(shared=1 << 40, large=large_pages * FRAME_OCTETS, finish=1 << 40, most=1 << 40)
    monkeypatch.setattr(write_ahead_log, "log_limits", lambda _: limits)
    monkeypatch.setattr(write_ahead_log, "LOOK_EVERY_S", 0.0)
    path = thin_disk.inner / "kmp.db"
    migrate(path)
    with open_store(path) as store:
        confirmed = numbers = 0
        for _ in range(2):
            for failing in (False, True, False):
                if failing:
                    thin_disk.fail()
                for _ in range(15):
                    numbers += 60
                    try:
                        add(store, numbers, 60)
                    except StoreUnavailable:
                        assert failing
                    else:
                        confirmed += 60
                if failing:
                    thin_disk.mend()
            assert registered(store) == confirmed
            assert thin_disk.after_a_power_cut(COUNT) == confirmed
    assert thin_disk.after_a_power_cut(COUNT) == confirmed


class CommittedMeanwhile:
    """A connection for which something happens in the moment before it moves the log."""

    def __init__(
        self, connection: sqlite3.Connection, what: Callable[[], None], when: str = checkpoint.PASSIVE
    ) -> None:
        self._connection = connection
        self._what = what
        self._when = when

    def execute(self, how: str) -> sqlite3.Cursor:
        if how == self._when:
            self._what()
        return self._connection.execute(how)


@pytest.mark.parametrize("late", [False, True], ids=["before the look", "after it"])
def test_what_lengthened_the_database_beside_a_reader_is_on_a_disk_that_told_later_that_it_failed(
    thin_disk: Disk, late: bool
) -> None:
    path = thin_disk.inner / "kmp.db"
    migrate(path)
    with open_store(path) as store, open_store(path) as other, closing(connect(path)) as reader:
        connection = store._database.connection

        def grow() -> None:
            add(other, 0, 1_000)
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM registrations").fetchall()
            add(other, 1_000, 20)
            thin_disk.fail()

        if not late:
            grow()
        mover: Any = CommittedMeanwhile(connection, grow) if late else connection
        with suppress(OSError, sqlite3.Error):  # before it is synced, there is nothing that tells
            checkpoint.move_log(mover, path, checkpoint.PASSIVE)
        os.sync()
        reader.execute("ROLLBACK")
        with pytest.raises((OSError, sqlite3.Error)):
            checkpoint.move_log(connection, path, checkpoint.PASSIVE)
        thin_disk.mend()
        with suppress(StoreUnavailable), store._database.alone():  # the kernel tells each descriptor of the fault once
            store._database.empty_log()
        with store._database.alone():
            assert store._database.empty_log()
        add(store, 1_020, 20)  # over the log that was moved
        assert thin_disk.after_a_power_cut(COUNT) == 1_040


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


KILLED_MOVING = """
import os, sys
from pathlib import Path
from kmp_smsd.storage import checkpoint, open_store
path = Path(sys.argv[1])
store = open_store(path)
os.fsync = lambda _: os._exit(9)
checkpoint.move_log(store._database.connection, path, checkpoint.PASSIVE)
"""


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


STRANGER = """
import fcntl, sys
with open(sys.argv[1] + "-shm", "r+b") as index:
    fcntl.lockf(index, fcntl.LOCK_EX, 1, 121)
    print("locked", flush=True)
    sys.stdin.read()
"""


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


def test_who_closes_trusts_no_move_that_did_not_end_though_others_have_it_open(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = path.with_name("kmp.db.moving")
    store = open_store(path)
    add(store, 0)
    mark.write_bytes(b"\0")
    monkeypatch.setattr(checkpoint, "others_have_open", lambda _: True)
    store.close()
    assert mark.stat().st_size == 0


def test_who_closes_leaves_the_log_while_a_stranger_moves_it_beside_a_mark(path: Path) -> None:
    store = open_store(path)
    add(store, 0)
    path.with_name("kmp.db.moving").write_bytes(b"\0")
    with subprocess.Popen(
        [sys.executable, "-c", STRANGER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as stranger:
        assert stranger.stdin is not None
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == b"locked\n"
        store.close()
        stranger.stdin.close()
    del store
    gc.collect()
    assert log_of(path).stat().st_size > 0
    with open_store(path) as store:
        assert registered(store) == 100


def test_interrupt_while_the_last_one_closes_leaves_the_log_to_the_next_one(path: Path) -> None:
    store = open_store(path)
    add(store, 0, 1_000)

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.close()
    del store
    gc.collect()
    assert log_of(path).stat().st_size > 0
    with open_store(path) as store:
        assert registered(store) == 1_000


@pytest.mark.filterwarnings("ignore:unclosed file")  # one that had just been opened
def test_move_that_is_interrupted_anywhere_leaves_its_lock_to_who_closes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python looks for an interrupt where a function begins, and behind each call of one that is written in C."""
    monkeypatch.setattr(descriptors, "_descriptors", {})  # each that other tests left would be another place
    points = 0
    left: list[int] = []

    def interrupt(_: FrameType, event: str, __: object) -> None:
        nonlocal points
        points -= event in ("call", "c_return")
        if points == 0:
            raise KeyboardInterrupt

    with open_store(path) as store, path.with_name("kmp.db.moving").open("wb") as lock:
        for one in range(1, 10_000):
            points = one
            sys.setprofile(interrupt)
            try:
                checkpoint.move_log(store._database.connection, path, checkpoint.PASSIVE)
            except KeyboardInterrupt:  # while it is on its way, all that it met is still there
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    left.append(one)
                fcntl.flock(lock, fcntl.LOCK_UN)
            else:
                break
            finally:
                sys.setprofile(None)
    assert 10 < one < 9_999
    assert not left


LEFT = """
import sys
from pathlib import Path
from kmp_smsd.storage.inbox import Inbox
from kmp_smsd.storage.received import Settled
inbox = Inbox(Path(sys.argv[1]), lambda: Settled({}))
print(sum(int(message.key_id) for received in inbox.take_left() for message in received.messages))
"""


@pytest.mark.parametrize("forgets", [False, True], ids=["its files stay", "its files go"])
def test_everything_answered_is_in_an_inbox_whose_disk_failed_for_a_while(thin_disk: Disk, forgets: bool) -> None:
    """Each batch of messages is one bit of the sum; one that was left with the SMSC may be there nevertheless."""
    answered = bit = refused = given = 0
    with closing(Inbox(thin_disk.inner / "kmp.db", lambda: Settled({}))) as inbox:
        for failing in (False, True, False, True, False):
            if failing:
                thin_disk.fail()
            for _ in range(20):
                bit += 1
                try:
                    received = inbox.append([sync(A, str(1 << bit))] + [sync(A, "0" * 60)] * 400)
                except StoreUnavailable:
                    assert failing
                    refused += 1
                else:
                    answered |= 1 << bit
                    given += len(received.messages)
            if failing:
                thin_disk.mend()
            left = thin_disk.after_a_power_cut(LEFT)
            assert answered & ~left == 0
            if forgets:
                inbox.forget(given)
                answered = 0
    assert refused
