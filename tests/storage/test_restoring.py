from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.domain.shown import shown
from kmp_smsd.storage import StoreBusy, StoreUnavailable, StoreUnusable, migrating, open_store, restoring
from kmp_smsd.storage.backup import backup
from kmp_smsd.storage.copies import write_copy
from kmp_smsd.storage.errors import NotPossible
from kmp_smsd.storage.locks import SchemaLock
from kmp_smsd.storage.migrating import migrate
from kmp_smsd.storage.restoring import restore
from kmp_smsd.storage.subscribers import Registration
from tests.mounting import require_root
from tests.storage.fresh import new_database
from tests.storage.stock import (
    DIGEST,
    FINGERPRINT,
    NOW,
    A,
    B,
    begin_import,
    bound,
    confirm_all,
    due,
    import_keys,
    register,
    row_at,
    settle,
    sync,
    versions,
    wanted,
)

DAY = 86_400_000
OTHERS = "others-master-key"
HUNG_S = 60.0  # whoever is waited for takes as long as the disk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with k1 bound at A."""
    path = tmp_path / "kmp.db"
    new_database(path)
    with open_store(path) as store:
        store.routes.set({"meter": "metering"})
        import_keys(store, "k1", "k2")
        register(store, A, "meter")
        register(store, B, "meter")
        settle(store, sync(A, "k1"))
        confirm_all(store)
    return path


@pytest.fixture
def saved(path: Path) -> Path:
    """Its backup; the database went on afterwards: k1 was withdrawn from A, k2 bound at A."""
    saved = path.with_name("saved.db")
    backup(path, saved)
    with open_store(path) as store:
        store.bindings.withdraw(A, "meter", NOW + 1)
        settle(store, sync(A, "k2", received_at=NOW + 2), now=NOW + 2)
        confirm_all(store, now=NOW + 3)
    return saved


def is_whole(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        return bool(connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok")


def test_restored_store_wants_everything_again_above_all_that_was_ever_wanted(path: Path, saved: Path) -> None:
    with open_store(path) as store:
        before = versions(store)[A, "meter"]
    restored = restore(path, saved, NOW + DAY)
    assert restored.wanted_again == 1
    with open_store(path) as store:
        assert bound(store) == {(A, "meter"): "k1"}
        (row,) = due(store, now=NOW + DAY)
        assert row.key is not None
        assert row.key.key_id == "k1"
        assert row.version > before
    assert restored.previous is not None
    assert is_whole(restored.previous)


def test_versions_do_not_go_back_either_where_the_clock_does(path: Path, saved: Path) -> None:
    """It was ahead, perhaps. A platform that holds a higher version keeps what it has."""
    with open_store(path) as store:
        before = versions(store)[A, "meter"]
    restore(path, saved, NOW - DAY)
    with open_store(path) as store:
        assert versions(store)[A, "meter"] > before
        settle(store, sync(B, "k2"), now=NOW - DAY)  # which the replaced database may have had
        assert versions(store)[B, "meter"] > before


def test_link_in_the_place_of_the_copy_does_not_open_another_file_to_the_group(
    path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As somebody who stole a role could lay it while root restores."""
    secret, renew = path.with_name("secret"), restoring._renew
    secret.touch(mode=0o600)

    def laid(copy: Path, *asked: int, **above: int) -> int:
        renewed = renew(copy, *asked, **above)
        copy.unlink()
        copy.symlink_to(secret)
        return renewed

    monkeypatch.setattr(restoring, "_renew", laid)
    restore(path, saved, NOW)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_damaged_version_is_not_exceeded(path: Path, saved: Path) -> None:
    """Above the largest integer there is none."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE outbox SET wanted_version = ?", (2**63 - 1,))
    restore(path, saved, NOW + DAY)
    with open_store(path) as store:
        assert versions(store)[A, "meter"] == NOW + DAY


def test_version_that_was_sent_and_not_confirmed_does_not_go_back_either(path: Path, saved: Path) -> None:
    with open_store(path) as store:
        settle(store, sync(B, "k1", received_at=NOW + 4), now=NOW + 4)
        sent = versions(store)
    assert sent[B, "meter"] > sent[A, "meter"]
    restore(path, saved, NOW - DAY)
    with open_store(path) as store:
        assert versions(store)[A, "meter"] > sent[B, "meter"]


def test_version_of_what_waits_for_a_platform_does_not_go_back_either(path: Path) -> None:
    """It may have left after the backup: its app found a platform then."""
    with open_store(path) as store:
        register(store, B, "tracker")
        settle(store, sync(B, "k2", "tracker"))
    backup(path, path.with_name("waiting.db"))
    with open_store(path) as store:
        store.bindings.withdraw(B, "tracker", NOW + 1)
        before = versions(store)[B, "tracker"]
    restore(path, path.with_name("waiting.db"), NOW + DAY)
    with open_store(path) as store:
        assert versions(store)[B, "tracker"] > before


def test_replaced_database_is_kept_and_can_be_restored_itself(path: Path, saved: Path) -> None:
    previous = restore(path, saved, NOW + DAY).previous
    assert previous is not None
    restore(path, previous, NOW + 2 * DAY)
    with open_store(path) as store:
        assert bound(store) == {(A, "meter"): "k2"}


def test_restored_and_backed_up_files_are_shared_and_private(path: Path, saved: Path) -> None:
    assert saved.stat().st_mode & 0o777 == 0o600
    restore(path, saved, NOW)
    assert path.stat().st_mode & 0o777 == 0o660
    assert [file.name for file in path.parent.iterdir() if "restoring" in file.name or "partial" in file.name] == []


def test_copy_is_for_nobody_else_while_it_is_made(path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, int] = {}

    def noting(step: Callable[..., Any]) -> Callable[..., Any]:
        def note(*arguments: Any) -> Any:
            for file in path.parent.glob("kmp.db.restoring*"):
                made.setdefault(file.name.partition("restoring")[2], file.stat().st_mode & 0o777)
            return step(*arguments)

        return note

    monkeypatch.setattr(restoring, "connect", noting(restoring.connect))  # the copy is there
    monkeypatch.setattr(restoring, "Renewing", noting(restoring.Renewing))  # its log and locks too
    before = os.umask(0o022)
    try:
        restore(path, saved, NOW)
    finally:
        os.umask(before)
    assert made.pop("") == 0o600
    assert "-wal" in made
    assert {mode & 0o007 for mode in made.values()} == {0}


def test_copy_is_written_to_nothing_that_is_there(path: Path) -> None:
    """As somebody who stole a role could lay a link."""
    target, elsewhere = path.with_name("kmp.db.restoring"), path.with_name("elsewhere")
    target.symlink_to(elsewhere)
    with closing(sqlite3.connect(path)) as connection, pytest.raises(FileExistsError):
        write_copy(connection, target)
    assert target.is_symlink()
    assert not elsewhere.exists()


def test_database_that_was_lost_is_restored(path: Path, saved: Path) -> None:
    for file in path.parent.glob("kmp.db*"):
        file.unlink()
    assert restore(path, saved, NOW).previous is None
    with open_store(path) as store:
        assert bound(store) == {(A, "meter"): "k1"}


def test_log_that_a_lost_database_left_is_not_taken_for_that_of_the_backup(path: Path, saved: Path) -> None:
    with open_store(path) as store:  # so SQLite cannot remove the log: as somebody removes the file under a role
        store.registrations.add([Registration(f"86139{number:08}", "meter") for number in range(2_000)], NOW)
        path.unlink()
    assert path.with_name("kmp.db-wal").stat().st_size > 0
    assert restore(path, saved, NOW).previous is None
    with open_store(path) as store:
        assert bound(store) == {(A, "meter"): "k1"}
        assert [one.faults for one in store.checking.check() if one.count] == []
    assert len(list(path.parent.glob("kmp.db.before-restore-*-wal"))) == 1


@pytest.mark.parametrize("damage", ["noise", "half", "empty"])
def test_damaged_database_is_replaced(path: Path, saved: Path, damage: str) -> None:
    octets = path.read_bytes()
    path.write_bytes({"noise": b"\x8f" * 20_000, "half": octets[: len(octets) // 2], "empty": b""}[damage])
    restore(path, saved, NOW)
    with open_store(path) as store:
        assert bound(store) == {(A, "meter"): "k1"}


@pytest.mark.parametrize("damage", ["noise", "half", "middle", "empty"])
def test_damaged_backup_changes_nothing(path: Path, saved: Path, damage: str) -> None:
    octets = saved.read_bytes()
    middle = octets[:8_192] + b"\x8f" * 4_096 + octets[12_288:]
    half = octets[: len(octets) // 2]
    saved.write_bytes({"noise": b"\x8f" * 20_000, "half": half, "middle": middle, "empty": b""}[damage])
    with pytest.raises((NotPossible, StoreUnusable, StoreUnavailable)):
        restore(path, saved, NOW)
    with open_store(path) as store:
        assert bound(store) == {(A, "meter"): "k2"}
    assert list(path.parent.glob("*restor*")) == []


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            "noise",
            "is not a database of kmp-smsd: file is not a database: name another file, whole as 'kmp-smsd db backup'",
        ),
        ("empty", "is not a database of kmp-smsd: name another file, whole as 'kmp-smsd db backup' wrote it"),
        ("middle", "is damaged: Tree [0-9]+ .*: restore another backup"),
        ("cut", "is cut short by 100 octets: copy it again, or restore another"),
        ("newer", r"made by a newer kmp-smsd \(9999_later\): install that, or restore an older backup"),
    ],
)
def test_backup_that_is_refused_says_what_to_do_about_a_backup(
    path: Path, saved: Path, damage: str, sentence: str
) -> None:
    octets = saved.read_bytes()
    if damage == "newer":
        with closing(sqlite3.connect(saved)) as connection, connection:
            connection.execute(
                "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('kmp-smsd', '9999_later', '')"
            )
    else:
        middle = octets[:8_192] + b"\x8f" * 4_096 + octets[12_288:]
        saved.write_bytes({"noise": b"\x8f" * 20_000, "middle": middle, "empty": b"", "cut": octets[:-100]}[damage])
    with pytest.raises((NotPossible, StoreUnusable), match=sentence) as raised:
        restore(path, saved, NOW)
    assert "\n" not in str(raised.value)


def test_copy_that_only_sqlite_s_own_files_beside_it_make_readable_is_to_be_copied(path: Path, tmp_path: Path) -> None:
    require_root()
    place = tmp_path / "disc"
    place.mkdir()
    shutil.copy(path, place / "copied.db")  # with cp, so it has the mode of the log, and no log
    subprocess.run(["mount", "--bind", "-o", "ro", place, place], check=True)
    try:
        with pytest.raises(StoreUnavailable, match="unable to open database file: copy it into a directory where you"):
            restore(path, place / "copied.db", NOW)
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The backup of another installation, whose keys are sealed to its own master key."""
    database = tmp_path_factory.mktemp("other") / "kmp.db"
    new_database(database)
    with open_store(database) as store:
        store.imports.publish(begin_import(store, fingerprint=OTHERS), DIGEST, NOW)
    backup(database, database.with_name("saved.db"))
    return database.with_name("saved.db")


def test_backup_of_another_installation_is_refused_and_changes_nothing(path: Path, foreign: Path) -> None:
    for public_half in (FINGERPRINT, OTHERS, None):
        with pytest.raises(NotPossible, match=f"master key {OTHERS}, .* {FINGERPRINT}: is it the backup of another"):
            restore(path, foreign, NOW, public_half=public_half)
    with open_store(path) as store:
        assert bound(store) == {(A, "meter"): "k1"}
    assert list(path.parent.glob("*restor*")) == []


@pytest.mark.parametrize("present", ["missing", "noise", "without keys"])
def test_configured_public_half_tells_what_a_lost_database_cannot(path: Path, foreign: Path, present: str) -> None:
    for file in path.parent.glob("kmp.db*"):
        file.unlink()
    if present == "noise":
        path.write_bytes(b"\x8f" * 20_000)
    elif present == "without keys":
        migrate(path)
    with pytest.raises(NotPossible, match=f"the configured public half is {FINGERPRINT}: "):
        restore(path, foreign, NOW, public_half=FINGERPRINT)
    restore(path, foreign, NOW, public_half=OTHERS)
    with open_store(path) as store:
        assert store.master_key() == OTHERS


def test_backup_of_another_master_key_is_restored_where_a_person_says_so(path: Path, foreign: Path) -> None:
    restore(path, foreign, NOW, public_half=FINGERPRINT, other_master_key=True)
    with open_store(path) as store:
        assert store.master_key() == OTHERS


def test_backup_without_keys_fits_every_master_key(path: Path, tmp_path: Path) -> None:
    migrate(tmp_path / "new.db")
    backup(tmp_path / "new.db", tmp_path / "empty.db")
    restore(path, tmp_path / "empty.db", NOW, public_half=OTHERS)
    with open_store(path) as store:
        assert store.master_key() is None


def test_what_was_not_cleared_when_the_backup_was_made_is_cleared_in_what_is_restored(path: Path) -> None:
    with open_store(path) as store:
        store.erasing.erase(A, NOW + 1)
        confirm_all(store, now=NOW + 1)
        store.erasing.finish()
        assert store._database.rows("SELECT erase_log FROM store") == [(1,)]
        backup(path, path.with_name("saved.db"))
    restore(path, path.with_name("saved.db"), NOW + 2)
    with open_store(path) as store:
        assert store._database.rows("SELECT erase_log FROM store") == [(0,)]


def test_replaced_database_is_named_by_the_time_that_was_given(path: Path, saved: Path) -> None:
    at = 1_000_000_000_000
    names = [previous.name for _ in range(2) if (previous := restore(path, saved, at).previous) is not None]
    assert names == ["kmp.db.before-restore-20010909T014640Z", "kmp.db.before-restore-20010909T014640Z.2"]


def test_copy_is_on_the_disk_before_it_takes_its_place_and_its_name_is_afterwards(
    path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    replace = os.replace

    def replaced(*names: Path) -> None:
        steps.append("replaced")
        replace(*names)

    monkeypatch.setattr(restoring, "sync", lambda synced: steps.append(synced.name))
    monkeypatch.setattr(os, "replace", replaced)
    restore(path, saved, NOW)
    assert steps == ["kmp.db.restoring", "replaced", "kmp.db"]


def test_restore_waits_for_nobody(path: Path, saved: Path) -> None:
    with open_store(path), pytest.raises(StoreBusy):
        restore(path, saved, NOW)
    with closing(sqlite3.connect(path, isolation_level=None)) as shell:
        shell.execute("BEGIN")
        shell.execute("SELECT count(*) FROM keys").fetchone()
        with pytest.raises(StoreBusy, match=r"a shell of SQLite, has .*/kmp\.db open: end it"):
            restore(path, saved, NOW)
    with open_store(path) as store:
        assert bound(store) == {(A, "meter"): "k2"}


@pytest.mark.parametrize("name", ["kmp.db", "linked.db"])
def test_database_is_no_backup_of_itself(path: Path, name: str) -> None:
    path.with_name("linked.db").symlink_to(path)
    before = path.read_bytes()
    with pytest.raises(NotPossible, match="is the database itself, name a backup"):
        restore(path, path.with_name(name), NOW)
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*before-restore*"))


def test_backup_is_never_written_over_a_file(path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()
    with monkeypatch.context() as patch:
        patch.delattr("kmp_smsd.storage.backup.opened")  # nothing is copied before that is seen
        with pytest.raises(NotPossible, match="name another file"):
            backup(path, saved)
    assert saved.read_bytes() == before
    with pytest.raises(NotPossible, match="no backup"):
        restore(path, path.with_name("missing"), NOW)
    with pytest.raises(NotPossible, match="no directory"):
        backup(path, path.parent / "missing" / "saved.db")


def no_link(number: int) -> Callable[[Path, Path], None]:
    """os.link on a file system without hard links; which error it is depends on the file system."""

    def link(_source: Path, _name: Path) -> None:
        raise OSError(number, os.strerror(number))

    return link


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_backup_is_written_to_a_file_system_without_hard_links(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "link", no_link(number))
    before = set(path.parent.iterdir())
    target = path.with_name("saved.db")
    assert backup(path, target) == target.stat().st_size
    assert is_whole(target)
    assert target.stat().st_mode & 0o777 == 0o600
    assert set(path.parent.iterdir()) == before | {target}
    with pytest.raises(NotPossible, match="name another file"):
        backup(path, target)


@pytest.mark.parametrize("links", [True, False])
def test_backup_is_not_written_over_a_file_that_appears_meanwhile(
    path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    link = os.link if links else no_link(errno.EPERM)

    def link_too_late(source: Path, name: Path) -> None:
        name.write_text("ours")
        link(source, name)

    monkeypatch.setattr(os, "link", link_too_late)
    with pytest.raises(NotPossible, match="name another file"):
        backup(path, path.with_name("saved.db"))
    assert path.with_name("saved.db").read_text() == "ours"


def test_backup_without_hard_links_that_fails_leaves_no_empty_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(_source: Path, target: Path) -> None:
        assert target.stat().st_size == 0
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "link", no_link(errno.EPERM))
    monkeypatch.setattr(os, "replace", replace)
    before = set(path.parent.iterdir())
    with pytest.raises(StoreUnavailable, match="Input/output error"):
        backup(path, path.with_name("saved.db"))
    assert set(path.parent.iterdir()) == before


@pytest.mark.parametrize("links", [True, False])
def test_two_backups_to_one_file_at_once_are_one_whole_backup_and_one_refusal(
    path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    target = path.with_name("saved.db")
    both_written = threading.Barrier(2)
    link = os.link if links else no_link(errno.EPERM)
    ended: list[int | str] = []

    def link_together(source: Path, name: Path) -> None:
        both_written.wait(HUNG_S)
        link(source, name)

    def run() -> None:
        try:
            ended.append(backup(path, target))
        except Exception as error:  # a thread of its own: what it was is compared below
            ended.append(f"{type(error).__name__}: {error}")

    monkeypatch.setattr(os, "link", link_together)
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HUNG_S)
    assert sorted(map(str, ended)) == [
        str(target.stat().st_size), f"NotPossible: {shown(str(target))} exists: name another file",
    ]  # fmt: skip
    assert is_whole(target)
    assert target.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.glob("*.partial")) == []


@pytest.mark.parametrize("where", ["backup.sync", "durable.os.fdatasync"])
def test_backup_that_fails_leaves_nothing_beside_its_target(
    path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def broken(_file: Path | int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(f"kmp_smsd.storage.{where}", broken)
    before = set(path.parent.iterdir())
    with pytest.raises(StoreUnavailable, match=r"saved\.db: Input/output error"):
        backup(path, path.with_name("saved.db"))
    assert set(path.parent.iterdir()) == before


def test_backup_is_on_the_disk_before_it_has_its_name_and_its_name_is_afterwards(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    link = os.link
    monkeypatch.setattr("kmp_smsd.storage.backup.sync", lambda synced: steps.append(synced.suffix))
    monkeypatch.setattr(os, "link", lambda *names: (steps.append("named"), link(*names)))
    backup(path, path.with_name("saved.db"))
    assert steps == [".partial", "named", ".db"]


def test_backup_waits_for_nobody_who_replaces_the_database(path: Path) -> None:
    with closing(SchemaLock(path, exclusive=True)), pytest.raises(StoreBusy):
        backup(path, path.with_name("saved.db"))


def test_backup_leaves_no_descriptor_of_its_file_open(path: Path) -> None:
    backup(path, path.with_name("saved.db"))
    assert not [one for one in Path("/proc/self/fd").iterdir() if ".partial" in os.path.realpath(one)]


WRITERS = 3


def test_backup_under_writers_ends_and_is_one_moment(path: Path) -> None:
    """Each writer binds and withdraws in one breath, so a moment between two transactions shows as a difference."""
    stop = threading.Event()
    started = threading.Barrier(WRITERS + 1)
    failed: list[BaseException] = []
    with open_store(path) as store:
        import_keys(store, *[f"w{writer}" for writer in range(WRITERS)])
        for writer in range(WRITERS):
            register(store, f"861380000000{writer}", "meter")

    def write(writer: int) -> None:
        try:
            with open_store(path) as store:
                started.wait(HUNG_S)
                now = NOW
                while not stop.is_set():
                    now += 10
                    settle(store, sync(f"861380000000{writer}", f"w{writer}", received_at=now), now=now)
                    store.bindings.withdraw(f"861380000000{writer}", "meter", now)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(WRITERS)]
    for thread in threads:
        thread.start()
    started.wait(HUNG_S)
    try:
        saved = [path.with_name(f"saved{number}.db") for number in range(5)]
        for one in saved:
            backup(path, one)
    finally:
        stop.set()
        for thread in threads:
            thread.join(HUNG_S)
    assert failed == []
    for one in saved:
        assert is_whole(one)
        restore(path, one, NOW + DAY)
        with open_store(path) as store:
            for (mdn, app_id), key_id in bound(store).items():
                assert wanted(store)[mdn, app_id, "metering"] == key_id
            assert {place[0] for place, key in wanted(store).items() if key} == {mdn for mdn, _ in bound(store)}


# Killed at every step


FILES = (migrating.__file__, restoring.__file__)
STEPS = ("migrate", "_migrate", "restore", "_write_checked", "_renew", "_take_place", "_set_aside")


def run_until(step: int, call: Callable[[], object]) -> int | None:
    """Call in a process that is killed at line `step` of what it does; how many lines a whole run has."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        lines = 0

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal lines
            if frame.f_code.co_filename not in FILES or frame.f_code.co_name not in STEPS:
                return None
            if event == "line":
                lines += 1
                if lines == step:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        try:
            sys.settrace(trace)
            call()
            sys.settrace(None)
            os.write(writer, str(lines).encode())
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as told:
        if os.WIFSIGNALED(status):
            return None
        return int(told.read())


@pytest.fixture
def copies(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    def copied(number: int, what: tuple[Path, ...]) -> list[Path]:
        directory = tmp_path_factory.mktemp(f"killed{number}")
        return [Path(shutil.copy(one, directory / one.name)) for one in what]

    yield copied
    assert is_whole(path)


def test_restore_killed_at_any_step_leaves_the_old_or_the_new_database_whole(
    path: Path, saved: Path, copies: Any
) -> None:
    seen = []
    target, source = copies(0, (path, saved))
    steps = run_until(0, lambda: restore(target, source, NOW + DAY))
    assert steps is not None
    for step in range(1, steps + 1):
        target, source = copies(step, (path, saved))
        assert run_until(step, partial(restore, target, source, NOW + DAY)) is None
        with open_store(target) as store:
            assert wanted(store)[A, "meter", "metering"] == bound(store)[A, "meter"]
            seen.append(bound(store)[A, "meter"])
            if seen[-1] == "k1":  # the new one: everything is wanted again
                assert row_at(store, A)["wanted_version"] >= NOW + DAY
        restore(target, source, NOW + 2 * DAY)  # what was left behind is in nobody's way
        assert is_whole(target)
    assert set(seen) == {"k1", "k2"}
    assert seen == sorted(seen, reverse=True)


def test_migration_killed_at_any_step_is_taken_up_again(tmp_path: Path) -> None:
    steps = run_until(0, lambda: migrate(tmp_path / "whole.db"))
    assert steps is not None
    for step in range(1, steps + 1):
        path = tmp_path / f"killed{step}.db"
        assert run_until(step, partial(migrate, path)) is None
        migrate(path)
        open_store(path).close()


def test_failure_to_replace_leaves_no_second_name_of_the_database(
    path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", broken)
        with pytest.raises(StoreUnavailable, match="could not be restored"):
            restore(path, saved, NOW)
    assert sorted(file.name for file in path.parent.glob("*restor*")) == []
    with open_store(path) as store:
        assert bound(store) == {(A, "meter"): "k2"}
