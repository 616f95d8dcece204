from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlite_utils
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage import Store, StoreBusy, StoreUnavailable, StoreUnusable, migrating, open_store, place
from kmp_smsd.storage.backup import backup
from kmp_smsd.storage.connection import PAGE_OCTETS
from kmp_smsd.storage.locks import SchemaLock
from kmp_smsd.storage.log_limits import LogLimits
from kmp_smsd.storage.migrating import migrate
from kmp_smsd.storage.migrations import MIGRATIONS
from kmp_smsd.storage.open_files import identity_of
from kmp_smsd.storage.restoring import restore
from kmp_smsd.storage.schema import applied_schema, known_schema
from tests.storage.stock import A, import_keys, register, settle, sync


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kmp.db"


def test_new_database_is_made_by_migrating_and_only_so(path: Path) -> None:
    with pytest.raises(StoreUnusable, match=r"no database at .*: is its volume mounted"):
        open_store(path)
    assert not path.exists()
    assert migrate(path).applied[0] == "0001_first"
    open_store(path).close()
    again = migrate(path)
    assert (again.applied, again.snapshot) == ((), None)


def test_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    for call in (open_store, migrate):
        with pytest.raises(StoreUnusable, match=r"no directory .*: is its volume mounted"):
            call(tmp_path / "missing" / "kmp.db")
    assert list(tmp_path.iterdir()) == []


FOREIGN = {
    "noise": b"\x8f" * 9_000,
    "text": b"not a database at all, but long enough to be mistaken for one " * 20,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path, kind: str) -> None:
    path.write_bytes(FOREIGN[kind])
    for call in (open_store, migrate):
        with pytest.raises(StoreUnusable, match="not a database"):
            call(path)
    assert path.read_bytes() == FOREIGN[kind]


def test_database_of_something_else_is_refused_and_left_as_it_is(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE cats (name TEXT)")
    before = path.read_bytes()
    for call in (open_store, migrate):
        with pytest.raises(StoreUnusable):
            call(path)
    assert path.read_bytes() == before


def test_empty_file_is_no_store_but_may_become_one(path: Path) -> None:
    path.touch()
    with pytest.raises(StoreUnusable):
        open_store(path)
    migrate(path)
    open_store(path).close()


def test_database_of_a_newer_program_is_refused(path: Path) -> None:
    migrate(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as newer:
        newer.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('kmp-smsd', '9999_later', 'now')"
        )
    for call in (open_store, migrate, lambda path: backup(path, path.with_name("saved.db"))):
        with pytest.raises(StoreUnusable, match=r"made by a newer kmp-smsd .*9999_later"):
            call(path)


def test_schema_of_a_database_is_told_whatever_program_made_it(path: Path, request: pytest.FixtureRequest) -> None:
    with pytest.raises(StoreUnusable, match="no database at"):
        applied_schema(path)
    assert not path.exists()
    migrate(path)
    assert applied_schema(path) == known_schema()
    with open_store(path):  # while it is in use
        request.getfixturevalue("next_version")
        assert applied_schema(path) != known_schema() == "0002_second"
    migrate(path)
    assert applied_schema(path) == "0002_second"
    path.write_bytes(FOREIGN["noise"])
    with pytest.raises(StoreUnusable, match="not a database"):
        applied_schema(path)


@pytest.fixture(name="next_version")
def _next_version() -> Iterator[None]:
    """This program as its next version will be: one migration more."""

    @MIGRATIONS(name="0002_second")
    def second(database: sqlite_utils.Database) -> None:
        database.execute("ALTER TABLE keys ADD COLUMN colour TEXT")

    yield
    MIGRATIONS._migrations.pop()


def test_database_of_an_older_program_is_migrated_after_a_snapshot(path: Path, request: pytest.FixtureRequest) -> None:
    migrate(path)
    with open_store(path) as store:
        import_keys(store, "k1")
    request.getfixturevalue("next_version")
    with pytest.raises(StoreUnusable, match=r"older schema \(\w+\): run 'kmp-smsd db migrate'"):
        open_store(path)
    migrated = migrate(path)
    assert migrated.applied == ("0002_second",)
    assert migrated.snapshot is not None
    assert migrated.snapshot.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(migrated.snapshot)) as snapshot:
        assert snapshot.execute("SELECT * FROM keys").fetchone()[1] == "k1"
        assert "colour" not in [row[1] for row in snapshot.execute("PRAGMA table_info(keys)")]
    with open_store(path) as store:
        assert store.keys.get("k1") is not None


def test_snapshot_that_cannot_be_finished_is_removed(path: Path, request: pytest.FixtureRequest) -> None:
    migrate(path)
    octets = path.read_bytes()
    path.write_bytes(octets[:8_192] + b"\x8f" * 4_096 + octets[12_288:])
    request.getfixturevalue("next_version")
    with pytest.raises(StoreUnusable, match="malformed"):
        migrate(path)
    assert list(path.parent.glob("*.before-*")) == []


def test_backup_of_an_older_program_is_migrated_as_it_is_restored(path: Path, request: pytest.FixtureRequest) -> None:
    migrate(path)
    with open_store(path) as store:
        import_keys(store, "k1")
    backup(path, path.with_name("backup"))
    request.getfixturevalue("next_version")
    restore(path, path.with_name("backup"), 1)
    with open_store(path) as store:
        assert store.keys.get("k1") is not None


def test_keys_that_an_older_program_imported_are_counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MIGRATIONS, "_migrations", MIGRATIONS._migrations[:11])
    migrate(path)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("INSERT INTO data_keys VALUES ('d', x'', 0)")
        for number, keys in enumerate((2, 0, 3)):
            database.execute("INSERT INTO imports VALUES (?, 'acme', 'file', '', 'd', 0, 0, 0)", (number,))
            for key in range(keys):
                database.execute(
                    "INSERT INTO keys (key_id, import, algorithm, kcv) VALUES (?, ?, '', '')",
                    (f"{number}-{key}", number),
                )
    monkeypatch.undo()
    assert "0012_keys_of_imports" in migrate(path).applied
    with open_store(path) as store:
        assert [one["keys"] for one in store.imports.listing(after=-1, limit=9)] == [2, 0, 3]


def test_failed_migration_changes_nothing(path: Path) -> None:
    migrate(path)

    @MIGRATIONS(name="0002_broken")
    def broken(database: sqlite_utils.Database) -> None:
        database.execute("ALTER TABLE keys ADD COLUMN colour TEXT")
        database.execute("ALTER TABLE nonsense ADD COLUMN colour TEXT")

    try:
        with pytest.raises(StoreUnavailable, match="no such table"):
            migrate(path)
    finally:
        MIGRATIONS._migrations.pop()
    open_store(path).close()


def test_open_store_keeps_others_from_migrating_and_the_other_way_round(path: Path) -> None:
    migrate(path)
    with open_store(path), open_store(path):
        with pytest.raises(StoreBusy, match="stop kmp-smsd"):
            migrate(path)
    with closing(SchemaLock(path, exclusive=True)):
        with pytest.raises(StoreBusy, match="being migrated or restored"):
            open_store(path)
    migrate(path)


MOUNTS = r"""22 1 8:1 / / rw - ext4 /dev/sda1 rw
31 30 0:26 / /srv/a\040disk\134here rw - ext4 /dev/sdb rw
30 22 0:25 / /srv rw shared:1 - {kind} server:/export rw
32 22 0:27 / /srvlocal rw - xfs /dev/sdc rw
33 30 0:28 / /srv/Zähler rw - nfs4 server:/zaehler rw
34 22 0:29 / /over rw - nfs4 server:/over rw
35 34 0:30 / /over rw - ext4 /dev/sdd rw
"""


@pytest.mark.parametrize(
    ("directory", "kind", "refused"),
    [
        ("/srv", "nfs4", True),
        ("/srv/deeper/down", "cifs", True),
        ("/srv", "fuse.sshfs", True),
        ("/srv", "btrfs", False),
        (r"/srv/a disk\here", "nfs4", False),
        ("/srvlocal", "nfs4", False),
        ("/srv/Zähler", "ext4", True),
        ("/over", "nfs4", False),
        ("/elsewhere", "nfs4", False),
    ],
)
def test_network_file_system_is_refused(
    monkeypatch: pytest.MonkeyPatch, directory: str, kind: str, refused: bool
) -> None:
    monkeypatch.setattr(place, "_mounts", lambda: MOUNTS.replace("{kind}", kind))
    monkeypatch.setattr(Path, "is_dir", lambda _: True)
    monkeypatch.setattr(Path, "resolve", lambda path: path)
    if refused:
        with pytest.raises(StoreUnusable, match="network file system"):
            place.check_place(Path(directory) / "kmp.db")
    else:
        place.check_place(Path(directory) / "kmp.db")


def test_directory_is_taken_where_the_kernel_does_not_say_what_it_lies_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_proc(_path: Path, **_options: str) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", no_proc)
    place.check_place(tmp_path / "kmp.db")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_files_are_the_group_s_whatever_the_umask(path: Path, umask: int) -> None:
    script = """
import os, sys
from pathlib import Path
os.umask(int(sys.argv[2]))
from kmp_smsd.storage import open_store
from kmp_smsd.storage.backup import backup
from kmp_smsd.storage.migrating import migrate
from tests.storage.stock import begin_import, register, A
path = Path(sys.argv[1])
migrate(path)
with open_store(path) as store:
    begin_import(store)
    register(store, A, "meter")
    for file in sorted(path.parent.iterdir()):
        print(file.name, oct(file.stat().st_mode & 0o7777))
"""
    shown = subprocess.run(
        [sys.executable, "-c", script, str(path), str(umask)], check=True, capture_output=True, text=True
    ).stdout
    besides = ("", "-shm", "-wal", ".import", ".moving", ".next", ".schema", ".write")
    assert shown.splitlines() == [f"kmp.db{name} 0o660" for name in besides]


@pytest.mark.parametrize("name", [".next", ".schema", ".write"])
def test_link_in_the_place_of_a_lock_does_not_open_another_file_to_the_group(path: Path, name: str) -> None:
    """As somebody who stole intake could lay it, for dispatch to open the file of its secret."""
    secret = path.with_name("secret")
    secret.touch(mode=0o600)
    migrate(path)
    lock = path.with_name(path.name + name)
    lock.unlink(missing_ok=True)
    lock.symlink_to(secret)
    with pytest.raises(StoreUnavailable, match="symbolic links"):
        open_store(path)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_link_in_the_place_of_a_new_database_does_not_either(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, migrations_of = path.with_name("secret"), migrating.migrations_of
    secret.touch(mode=0o600)

    def laid(connection: sqlite3.Connection) -> tuple[list[str], list[str]]:
        path.unlink()
        path.symlink_to(secret)
        return migrations_of(connection)

    monkeypatch.setattr(migrating, "migrations_of", laid)
    migrate(path)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_copy_that_was_put_in_place_by_hand_is_refused_with_advice(path: Path) -> None:
    migrate(path)
    backup(path, path.with_name("copy"))
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    os.replace(path.with_name("copy"), path)
    with pytest.raises(StoreUnusable, match="put copies in place with 'kmp-smsd db restore'"):
        open_store(path)


def test_log_stays_small_while_intake_writes_on(open_store: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from kmp_smsd.storage import write_ahead_log

    limits = LogLimits(shared=1 << 40, large=50 * PAGE_OCTETS, finish=5 * PAGE_OCTETS, most=150 * PAGE_OCTETS)
    monkeypatch.setattr(write_ahead_log, "log_limits", lambda _: limits)
    monkeypatch.setattr(write_ahead_log, "LOOK_EVERY_S", 0)  # how large it is between two looks, the disk says
    store: Store = open_store()  # type: ignore[operator]
    keys = [f"k{number}" for number in range(600)]
    import_keys(store, *keys)
    for number, key in enumerate(keys):
        mdn = str(int(A) + number)
        register(store, mdn, "meter")
        settle(store, sync(mdn, key))
    assert store._database.log_path.stat().st_size < 1_000_000


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_is_confirmed_into_a_file_that_is_gone(path: Path, suffix: str, replaced: bool) -> None:
    migrate(path)
    with open_store(path) as store:
        register(store, A, "meter")
        file = path.with_name(path.name + suffix)
        file.unlink()
        if replaced:
            file.touch()
        with pytest.raises(StoreUnavailable, match="was removed or replaced under us"):
            settle(store, sync(A, "k1"))
        with pytest.raises(StoreUnavailable, match="was removed or replaced under us"):
            store.data_version()  # who only watches says so too


def test_identity_of_a_database_tells_files_apart_that_have_one_name(path: Path) -> None:
    assert identity_of(path) == ""
    migrate(path)
    with open_store(path) as store:
        assert identity_of(path) == store.identity != ""
        os.replace(shutil.copy(path, path.with_name("copy")), path)
        assert identity_of(path) != store.identity
        os.unlink(path)
        assert identity_of(path) == ""
    (path.parent / "file").touch()
    with pytest.raises(StoreUnavailable, match=r"file/kmp\.db: Not a directory"):
        identity_of(path.parent / "file" / "kmp.db")


@pytest.mark.parametrize("mode", ["FULL", "INCREMENTAL"])
def test_database_whose_pages_somebody_has_move_is_refused(path: Path, mode: str) -> None:
    """An erasure clears unused octets of pages, and knows no page that maps others."""
    migrate(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as shell:
        shell.executescript(
            f"PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = {mode}; VACUUM; PRAGMA journal_mode = WAL"
        )
    with pytest.raises(StoreUnusable, match="has auto_vacuum"):
        open_store(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as shell:
        shell.executescript("PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = 0; VACUUM; PRAGMA journal_mode = WAL")
    open_store(path).close()


def test_outbox_of_an_older_program_keeps_its_rows_and_what_they_stand_for(path: Path) -> None:
    newer = [one for one in MIGRATIONS._migrations if one.name >= "0010"]
    del MIGRATIONS._migrations[-len(newer) :]
    try:
        migrate(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as old:
            for number in range(1, 4):
                old.execute(
                    "INSERT INTO outbox (subscriber, app, platform, key, wanted_version, rejected_version, wanted_at,"
                    " try_at, attempts, error) VALUES (?, 'meter', 'metering', ?, 7, ?, 5, ?, 2, 'why')",
                    (number, number, 7 * (number == 3), 10 - number),
                )
                old.execute(
                    "INSERT INTO bindings (key, subscriber, app, state, received_at, bound_at)"
                    " VALUES (?, ?, 'meter', 'bound', 5, 5)",
                    (number, number),
                )
    finally:
        MIGRATIONS._migrations.extend(newer)
    assert migrate(path).applied == tuple(one.name for one in newer)
    with closing(sqlite3.connect(path)) as new:
        rows = new.execute(
            "SELECT subscriber, app, platform, key, wanted_version, confirmed_version, rejected_version, wanted_at,"
            " try_at, attempts, error FROM outbox ORDER BY id"
        ).fetchall()
        assert rows == [
            (number, "meter", "metering", number, 7, 0, 7 * (number == 3), 5, 10 - number, 2, "why")
            for number in range(1, 4)
        ]
        assert new.execute("SELECT key, subscriber FROM bound ORDER BY key").fetchall() == [(1, 1), (2, 2), (3, 3)]
        with pytest.raises(sqlite3.IntegrityError, match="another key is bound"):
            new.execute(
                "INSERT INTO bindings (key, subscriber, app, state, received_at, bound_at)"
                " VALUES (9, 1, 'meter', 'bound', 6, 6)"
            )
