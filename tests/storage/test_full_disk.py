from __future__ import annotations

import errno
import itertools
import os
import resource
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.storage import Store, StoreUnavailable, database, open_store, write_ahead_log
from kmp_smsd.storage.backup import backup
from kmp_smsd.storage.locks import ImportLock
from kmp_smsd.storage.log_limits import LogLimits, log_limits
from kmp_smsd.storage.migrating import migrate
from kmp_smsd.storage.requests import Add, Remove, Renumber, Request
from kmp_smsd.storage.restoring import restore
from kmp_smsd.storage.scrubbing import Scrubber
from kmp_smsd.storage.subscribers import Registration, register
from kmp_smsd.storage.volume import free_octets, reserve_octets, size_octets
from tests.storage.stock import NOW, A, begin_import, bound, content, counted, import_keys, settle, staged, sync

MDNS = [str(int(A) + number) for number in range(400)]
KEYS = [f"k{number}" for number in range(400)]
MIGRATE = """
import sys
from pathlib import Path
from kmp_smsd.storage.migrating import migrate
migrate(Path(sys.argv[1]))
"""


def filled(store: Store) -> None:
    import_keys(store, *KEYS)
    store.registrations.add([Registration(mdn, "meter") for mdn in MDNS], 1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(place: Path) -> Path:
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4_096)
        except OSError as full:
            if full.errno != errno.ENOSPC:
                raise
    return ballast


def test_full_disk_loses_nothing_and_is_recovered_from(small_disk: Path) -> None:
    path = small_disk / "kmp.db"
    migrate(path)
    with open_store(path) as store:
        filled(store)
        settle(store, sync(MDNS[0], KEYS[0]))
        ballast = fill(small_disk)
        before = content(store, tuple(MDNS))
        for mdn, key in zip(MDNS[1:], KEYS[1:], strict=True):  # the log may have room for some
            try:
                assert settle(store, sync(mdn, key)) == [Outcome.BOUND]
            except StoreUnavailable:
                break
            before = content(store, tuple(MDNS))
        else:
            pytest.fail("the disk never was full")
        assert content(store, tuple(MDNS)) == before
        done = counted(store)["bound"]
        assert len(bound(store)) == done
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match=f"^{path}: database or disk is full: make room on its volume$"):
                settle(store, *map(sync, MDNS, KEYS))
        assert content(store, tuple(MDNS)) == before
        with pytest.raises(StoreUnavailable):
            backup(path, small_disk / "saved.db")
        assert not [*small_disk.glob("saved*"), *small_disk.glob("*.partial*")]
        ballast.unlink()
        assert set(settle(store, *map(sync, MDNS, KEYS))) == {Outcome.BOUND, Outcome.ALREADY_BOUND}
        assert len(bound(store)) == 400
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.fixture
def nearly_full_disk(small_disk: Path) -> Path:
    """With room for 512 KiB."""
    ballast = fill(small_disk)
    os.truncate(ballast, ballast.stat().st_size - (512 << 10))
    return small_disk


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A database of more pages than SQLite keeps in memory while it copies them."""
    path = tmp_path / "kmp.db"
    migrate(path)
    with open_store(path) as store:
        for first in range(0, 90_000, 1_000):
            store.registrations.add([Registration(str(int(A) + first + n), "meter") for n in range(1_000)], 1)
    return path


def test_backup_to_a_disk_that_is_too_small_leaves_nothing_there(large: Path, nearly_full_disk: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"saved\.db: database or disk is full: make room on its volume$"):
        backup(large, nearly_full_disk / "saved.db")
    assert [file.name for file in nearly_full_disk.iterdir()] == ["ballast"]


def test_restoring_to_a_disk_that_is_too_small_leaves_nothing_there(large: Path, nearly_full_disk: Path) -> None:
    path = nearly_full_disk / "kmp.db"
    with pytest.raises(StoreUnavailable, match=f"restored as {path}: database or disk is full: make room on its vol"):
        restore(path, large, 1)
    assert {file.name for file in nearly_full_disk.iterdir()} == {"ballast", "kmp.db.schema"}


def test_import_that_does_not_fit_leaves_room_for_messages_and_is_discarded(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=60m", small_disk], check=True)
    path = small_disk / "kmp.db"
    migrate(path)
    with open_store(path) as store:
        filled(store)
        os.truncate(ballast := fill(small_disk), ballast.stat().st_size - (8 << 20))
        number = begin_import(store)
        steps = (
            store.imports.stage(number, [staged(f"new-{first + n}") for n in range(200)])
            for first in itertools.count(step=200)
        )
        with pytest.raises(
            StoreUnavailable,
            match="has 6 MB left beside the database's log, which messages need: make room, then try again",
        ):
            deque(steps)
        assert settle(store, *map(sync, MDNS, KEYS)) == [Outcome.BOUND] * 400
        store.imports.discard(number)
        assert store._database.rows("SELECT count(*) FROM keys") == [(400,)]


def test_registrations_that_do_not_fit_leave_room_for_messages(small_disk: Path) -> None:
    path = small_disk / "kmp.db"
    migrate(path)
    with open_store(path) as store:
        filled(store)
        steps = (
            store.registrations.add([Registration(str(int(A) + 10_000 + first + n), "meter") for n in range(1_000)], 1)
            for first in itertools.count(step=1_000)
        )
        with pytest.raises(
            StoreUnavailable, match="MB left beside the database's log, which messages need: make room, then try again"
        ):
            deque(steps)
        assert settle(store, *map(sync, MDNS, KEYS)) == [Outcome.BOUND] * 400


def stage_until_refused(store: Store, number: int) -> None:
    steps = (
        store.imports.stage(number, [staged(f"{'new-' * 14}{first + n:06}") for n in range(1_000)])
        for first in itertools.count(step=1_000)
    )
    with pytest.raises(StoreUnavailable, match="MB left beside the database's log, which messages need"):
        deque(steps)


def test_import_beside_somebody_who_reads_for_long_leaves_the_messages_their_room(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=60m", small_disk], check=True)
    path = small_disk / "kmp.db"
    migrate(path)
    with open_store(path, checkpoint_aside=True) as intake, open_store(path) as command, open_store(path) as reader:
        filled(intake)
        with reader._database.snapshot():
            reader._database.rows("SELECT count(*) FROM keys")
            number = begin_import(command)
            stage_until_refused(command, number)
            with suppress(StoreUnavailable):  # as far as there is room for it
                command.imports.discard(number)
            left = shutil.disk_usage(small_disk).free - intake._database.growth()
            assert left > 2_000_000  # the log can be moved once nobody reads
            assert settle(intake, *map(sync, MDNS, KEYS)) == [Outcome.BOUND] * 400
        command.imports.discard(begin_import(command))  # the next import removes what was left
        assert command._database.rows("SELECT count(*) FROM keys") == [(400,)]
        assert shutil.disk_usage(small_disk).free > 4_000_000


def test_import_that_fills_its_disk_leaves_the_messages_their_room_when_it_is_discarded(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=60m", small_disk], check=True)
    path = small_disk / "kmp.db"
    migrate(path)
    with open_store(path, checkpoint_aside=True) as intake, open_store(path) as command:
        filled(intake)
        number = begin_import(command)
        stage_until_refused(command, number)
        command.imports.discard(number)
        assert shutil.disk_usage(small_disk).free > 4_000_000  # of the 6 MB that are the messages'
        assert settle(intake, *map(sync, MDNS, KEYS)) == [Outcome.BOUND] * 400


def test_import_that_cannot_be_discarded_for_another_reason_says_so(tmp_path: Path) -> None:
    path = tmp_path / "kmp.db"
    migrate(path)
    with open_store(path) as store:
        number = begin_import(store)
        store.imports.stage(number, [staged("new-1")])
        path.rename(tmp_path / "elsewhere")
        with pytest.raises(StoreUnavailable, match="was removed or replaced under us"):
            store.imports.discard(number)
        ImportLock(path).close()  # another import may begin


def test_what_is_refused_for_lack_of_room_takes_none(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=40m", small_disk], check=True)
    path = small_disk / "kmp.db"
    migrate(path)
    with open_store(path) as intake, open_store(path) as command:
        filled(intake)
        number = begin_import(command)
        command.imports.stage(number, [staged("new-1")])
        for first in range(0, 24_000, 1_000):  # what lies in the log alone: it is moved at 26,000 or later
            with intake._database.transaction() as connection:
                register(connection, [Registration(str(int(A) + 9_000 + first + n), "meter") for n in range(1_000)], 1)
        os.truncate(ballast := fill(small_disk), ballast.stat().st_size - 1_500_000)
        assert intake._database.growth() > (free := shutil.disk_usage(small_disk).free)
        with pytest.raises(StoreUnavailable, match="has 0 MB left"):
            command.registrations.add([Registration(MDNS[0], "alarm")], 1)
        for wish in (Add(MDNS[0], ("alarm",)), Renumber(MDNS[0], str(int(A) + 8_999))):
            with pytest.raises(StoreUnavailable, match="has 0 MB left"):
                command.requests.apply([Request("1", b"", wish)], 1)
        (gone,) = command.requests.apply([Request("2", b"", Remove(str(int(A) + 9_000), None))], 1)
        assert gone["result"] == "done"
        free = shutil.disk_usage(small_disk).free
        with pytest.raises(StoreUnavailable, match="has 0 MB left"):
            command.imports.discard(number)
        with pytest.raises(OSError, match="No space left on device"):
            intake._database.empty_log()
        assert shutil.disk_usage(small_disk).free == free
        ballast.unlink()
        assert settle(intake, *map(sync, MDNS, KEYS)) == [Outcome.BOUND] * 400


def touch(store: Store, at: int) -> None:
    """Write what takes room in the log alone."""
    with store._database.transaction() as connection:
        connection.execute("UPDATE subscribers SET last_heard = ?", (at,))


def test_log_that_filled_the_disk_begins_anew(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = LogLimits(shared=1 << 40, large=1 << 40, finish=0, most=1 << 40)
    monkeypatch.setattr(write_ahead_log, "log_limits", lambda _: limits)
    path = small_disk / "kmp.db"
    migrate(path)
    with open_store(path) as store:
        filled(store)
        touch(store, NOW)  # no row becomes longer after that
        assert store._database.empty_log()
        ballast = fill(small_disk)
        os.truncate(ballast, ballast.stat().st_size - (512 << 10))
        with pytest.raises(StoreUnavailable, match="database or disk is full"):
            deque(touch(store, NOW + later) for later in itertools.count())
        for later in range(10):
            touch(store, NOW + later)


def test_log_is_small_on_a_small_volume(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_ahead_log, "LOOK_EVERY_S", 0.0)
    subprocess.run(["mount", "-o", "remount,size=40m", small_disk], check=True)
    path = small_disk / "kmp.db"
    migrate(path)
    with open_store(path) as store:
        filled(store)
        written = 0
        while written < 40_000_000:
            before = store._database.log_path.stat().st_size
            touch(store, written)
            written += max(10_000, store._database.log_path.stat().st_size - before)
        assert store._database.log_path.stat().st_size < 6_000_000  # of which 4 are left to the messages


@pytest.mark.parametrize(
    ("volume", "limits"),
    [
        (1 << 40, LogLimits(shared=32 << 20, large=64 << 20, finish=1 << 20, most=256 << 20)),
        (8_000 << 20, LogLimits(shared=32 << 20, large=64 << 20, finish=1 << 20, most=200 << 20)),
        (2_000 << 20, LogLimits(shared=32 << 20, large=64 << 20, finish=1 << 20, most=96 << 20)),
        (640 << 20, LogLimits(shared=16 << 20, large=32 << 20, finish=1 << 19, most=48 << 20)),
    ],
)
def test_log_s_limits_grow_with_its_volume(monkeypatch: pytest.MonkeyPatch, volume: int, limits: LogLimits) -> None:
    told = os.statvfs_result((4096, 4096, volume // 4096, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: told)
    assert log_limits(Path()) == limits


def test_volume_that_does_not_tell_how_large_it_is_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    told = os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: told)
    assert free_octets(Path()) == size_octets(Path()) == sys.maxsize
    assert reserve_octets(Path()) == 128 << 20


def test_log_is_moved_by_who_only_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kmp.db"
    migrate(path)
    moved: list[int] = []
    monkeypatch.setattr(database.Database, "lighten_log", lambda _, octets: moved.append(octets))
    with open_store(path) as store:
        store.requests.apply([Request("1", b"", Remove(MDNS[0], None))], 1)
    assert len(moved) == 1


def test_room_that_others_took_meanwhile_is_nobodys(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_disk / "kmp.db"
    migrate(path)
    with open_store(path) as store:
        filled(store)
        monkeypatch.setattr(database.Database, "lighten_log", lambda *_: fill(small_disk))
        with pytest.raises(StoreUnavailable, match="has 0 MB left"):
            store.registrations.add([Registration(MDNS[0], "alarm")], 1)


def test_requests_that_do_not_fit_leave_room_for_messages(small_disk: Path) -> None:
    path = small_disk / "kmp.db"
    migrate(path)
    with open_store(path) as store:
        filled(store)
        steps = (
            store.requests.apply(
                [Request(str(n), b"", Add(str(int(A) + 10_000 + n), ("meter",))) for n in range(first, first + 1_000)],
                1,
            )
            for first in itertools.count(step=1_000)
        )
        with pytest.raises(StoreUnavailable, match="MB left beside the database's log, which messages need"):
            deque(steps)
        assert settle(store, *map(sync, MDNS, KEYS)) == [Outcome.BOUND] * 400


def test_disk_too_full_to_open_on_is_unavailable_and_not_unusable(small_disk: Path) -> None:
    path = small_disk / "kmp.db"
    migrate(path)
    for lock in small_disk.glob("kmp.db.*"):
        lock.unlink()
    fill(small_disk)
    with pytest.raises(StoreUnavailable, match=r"see whether its volume is full \(df\)"):
        open_store(path)


def test_disk_that_reports_errors_is_told_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "kmp.db"
    migrate(path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_store(path) as store:
        filled(store)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))  # to SQLite, no other error than that of a disk
            with pytest.raises(StoreUnavailable, match=r"disk I/O error: see .*\(dmesg\).*, stop both roles, mend"):
                settle(store, sync(A, KEYS[0]))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert settle(store, sync(A, KEYS[0])) == [Outcome.BOUND]


def test_file_system_that_became_read_only_is_told_with_what_to_do(small_disk: Path) -> None:
    path = small_disk / "kmp.db"
    subprocess.run([sys.executable, "-c", MIGRATE, path], check=True)  # who has it open to write it would be in the way
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreUnavailable, match=r"schema: Read-only file system: let it be written .* unmount "):
        open_store(path)


def test_database_that_may_not_be_written_is_told_with_what_to_do(store: Store) -> None:
    filled(store)
    store._database.connection.execute("PRAGMA query_only = 1")
    with pytest.raises(StoreUnavailable, match=r"readonly database: let it be written \(its mode, "):
        settle(store, sync(A, KEYS[0]))


def test_database_that_may_not_grow_is_as_full(store: Store) -> None:
    filled(store)
    connection = store._database.connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 2}").fetchall()
    before = content(store, tuple(MDNS))
    with pytest.raises(StoreUnavailable, match="full"):
        settle(store, *map(sync, MDNS, KEYS))
    assert content(store, tuple(MDNS)) == before
    connection.execute(f"PRAGMA max_page_count = {pages + 2_000}").fetchall()
    assert settle(store, *map(sync, MDNS, KEYS)) == [Outcome.BOUND] * 400


@pytest.mark.parametrize(
    "fault",
    [
        sqlite3.OperationalError("disk I/O error"),
        sqlite3.OperationalError("database is locked"),
        sqlite3.DatabaseError("database disk image is malformed"),
        OSError(5, "Input/output error"),
    ],
)
def test_fault_below_is_for_the_whole_batch(store: Store, monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    filled(store)
    calls = []

    def broken(*_: object) -> None:
        calls.append(1)
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr("kmp_smsd.storage.settling.want", broken)
        with pytest.raises(StoreUnavailable):
            settle(store, *map(sync, MDNS, KEYS))
    assert calls == [1]  # nothing was halved
    assert bound(store) == {}
    assert settle(store, sync(A, KEYS[0])) == [Outcome.BOUND]


def test_violated_constraint_is_its_own_message_s_fault(store: Store) -> None:
    filled(store)
    store._database.connection.execute(
        """CREATE TEMP TRIGGER poison BEFORE INSERT ON main.bindings WHEN new.app = 'meter'
             AND new.key = (SELECT id FROM keys WHERE key_id = 'k7')
           BEGIN SELECT RAISE(ABORT, 'no'); END"""
    )
    outcomes = settle(store, *map(sync, MDNS[:20], KEYS[:20]))
    assert outcomes == [Outcome.ERROR if number == 7 else Outcome.BOUND for number in range(20)]


def test_octets_of_a_destroyed_key_are_in_no_file(tmp_path: Path) -> None:
    path = tmp_path / "kmp.db"
    migrate(path)
    octets = b"0f 1e 2d 3c 4b 5a"
    with open_store(path) as store, open_store(path) as other:
        import_keys(store, staged("secret", ciphertext=octets), *KEYS)
        assert other.keys.get("secret") is not None
        assert any(octets in file.read_bytes() for file in tmp_path.iterdir())
        store.keys.destroy("secret", 1)
        assert store.erasing.clear()
        assert not [file.name for file in tmp_path.iterdir() if octets in file.read_bytes()]
    assert not [file.name for file in tmp_path.iterdir() if octets in file.read_bytes()]


def test_destroying_says_when_a_reader_kept_the_log_from_being_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kmp.db"
    migrate(path)
    with open_store(path) as store, closing(sqlite3.connect(path, isolation_level=None)) as reader:
        import_keys(store, "k1", "k2")
        monkeypatch.setitem(Scrubber.scrub.__kwdefaults__, "waits_s", (0.0,))
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM keys").fetchone()
        store.keys.destroy("k1", 1)
        assert not store.erasing.clear()
        assert store.keys.get("k1")["state"] == "destroyed"  # type: ignore[index]
        reader.execute("COMMIT")
        store.keys.destroy("k2", 1)
        assert store.erasing.clear()
