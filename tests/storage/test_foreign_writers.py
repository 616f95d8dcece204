"""Beside others who know nothing of our locks; erasing, which writes into the database's file, killed in the middle."""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.storage import Store, StoreUnavailable, database, leftovers, open_store, scrubbing, write_ahead_log
from kmp_smsd.storage.checkpoint import in_log
from kmp_smsd.storage.connection import BUSY_TIMEOUT_MS, connect
from kmp_smsd.storage.erasing import SWEEP_ROWS
from tests.storage.fresh import new_database
from tests.storage.stock import HOUR, NOW, A, settle, sync

ROUNDS = 3  # of filling and erasing beside a foreign writer

# Somebody's own program, with the SQLite of the Python language: it commits and checkpoints as it likes.
FOREIGN = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=float(sys.argv[2]))
connection.execute("PRAGMA wal_autocheckpoint = 0")
"""
ONCE = (
    FOREIGN
    + """
try:
    connection.execute("INSERT INTO subscribers (mdn, last_heard) VALUES ('4712', 9e15)")
    connection.execute("PRAGMA wal_checkpoint")
    print("committed")
except sqlite3.OperationalError as error:
    print(error)
"""
)
FOR_EVER = (
    FOREIGN
    + """
import random, threading
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set())).start()
chance, numbers = random.Random(7), set()
def retried(sql, *parameters):
    while True:
        try:
            return connection.execute(sql, parameters).fetchall()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
print("begun", flush=True)
while not ended.is_set() or len(numbers) < 50:
    number = f"47{chance.randrange(10**6):011}"
    retried("INSERT INTO subscribers (mdn, last_heard) VALUES (?, 9000000000000000) ON CONFLICT DO NOTHING", number)
    numbers.add(number)
    if len(numbers) > 200:
        number = chance.choice(sorted(numbers))
        numbers.remove(number)
        retried("DELETE FROM subscribers WHERE mdn = ?", number)
    ended.wait(0.002)  # SQLite's own lock is no queue: who never pauses starves the others
    if chance.random() < 0.2:
        retried("PRAGMA wal_checkpoint(%s)" % chance.choice(["PASSIVE", "FULL", "RESTART", "TRUNCATE"]))
print(*sorted(numbers))
"""
)
WRITING = (
    FOREIGN
    + """
connection.execute("BEGIN IMMEDIATE")
print("begun", flush=True)
sys.stdin.read()
"""
)
READING = (
    FOREIGN
    + """
slow = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT count(*) FROM n, store"
print("begun", flush=True)
while True:
    connection.execute("BEGIN")
    connection.execute(slow).fetchall()
    connection.execute("COMMIT")
"""
)
KILLED = """
import os, signal, sys
from pathlib import Path
from kmp_smsd.storage import leftovers, open_store
written = []
def pwrite(*parameters, really=os.pwrite):
    if len(written) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(parameters)
    return really(*parameters)
leftovers.os.pwrite = pwrite
open_store(Path(sys.argv[1])).finish_erasing()
"""


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with open_store(path) as opened:
        yield opened


def test_foreign_writer_is_named_to_who_waited_for_it_in_vain(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store._database.connection.execute("PRAGMA busy_timeout = 0")
    command = [sys.executable, "-c", WRITING, str(path), "5"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writing:
        assert writing.stdout is not None
        assert writing.stdout.readline() == "begun\n"
        name = Path(f"/proc/{writing.pid}/comm").read_text().strip()
        who = rf"PID {writing.pid} \({name}\), which takes no part in our queue of writers"
        for _ in range(2):  # to ask for it takes no lock of ours away
            with pytest.raises(StoreUnavailable, match=f"^{path}: database is locked by {who}$"):
                settle(store, sync(A, "k1"))
        monkeypatch.setattr(database, "writer", lambda _: 0)  # as the kernel names one of another container
        with pytest.raises(StoreUnavailable, match="locked by a process that cannot be named from here"):
            settle(store, sync(A, "k1"))
    assert settle(store, sync(A, "k1")) == [Outcome.NOT_REGISTERED]
    assert run(ONCE, path, 0).stdout == "committed\n"


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def fill(store: Store, seed: int, count: int = 4_000) -> tuple[set[str], set[str]]:
    """Numbers that are due to be erased, and others between them, in an order that has pages of the index split."""
    numbers = [f"8613{seed:02}{number:07}" for number in random.Random(seed).sample(range(10**7), count)]
    for start in range(0, count, 250):
        with store._database.transaction() as connection:
            connection.executemany(
                "INSERT INTO subscribers (mdn, last_heard) VALUES (?, ?)",
                [(mdn, NOW + HOUR * (at % 2)) for at, mdn in enumerate(numbers[start : start + 250])],
            )
    return set(numbers[::2]), set(numbers[1::2])


def blank(store: Store) -> None:
    """Sweep through all subscribers, from wherever the last sweep came to."""
    ((rows,),) = store._database.rows("SELECT count(*) FROM subscribers")
    for _ in range(2 * rows // SWEEP_ROWS + 2):
        store.erasing.sweep(NOW + 1)
        while store.erasing.sweeping:
            store.erasing.sweep(NOW + 1)


def standing(path: Path) -> set[str]:
    """The numbers of a database that is whole, as its table and its index know them."""
    with closing(connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        numbers = {mdn for (mdn,) in connection.execute("SELECT mdn FROM subscribers NOT INDEXED WHERE mdn > ''")}
        assert numbers == {mdn for (mdn,) in connection.execute("SELECT mdn FROM subscribers WHERE mdn > ''")}
        return numbers


def anywhere(path: Path, numbers: set[str]) -> set[str]:
    octets = b"".join(one.read_bytes() for one in path.parent.iterdir() if one.name.startswith(path.name))
    return numbers & {found.decode() for found in re.findall(rb"(?=(\d{13}))", octets)}  # as many digits as each has


def test_interrupt_behind_the_beginning_of_a_transaction_leaves_none_open(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = store._database._begin

    def interrupted() -> None:
        begin()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store._database, "_begin", interrupted)
        with pytest.raises(KeyboardInterrupt), store._database.transaction():
            pass
    with store._database.transaction() as connection:
        connection.execute("UPDATE store SET cleared = cleared + 1")


class Interrupted:
    """A connection that is interrupted as soon as it has executed `behind`."""

    def __init__(self, connection: sqlite3.Connection, behind: str) -> None:
        self._connection = connection
        self._behind = behind

    def execute(self, sql: str) -> sqlite3.Cursor:
        cursor = self._connection.execute(sql)
        if sql == self._behind:
            raise KeyboardInterrupt
        return cursor

    def rollback(self) -> None:
        self._connection.rollback()


def test_interrupt_while_a_failed_write_is_cut_off_leaves_no_transaction_open(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = sqlite3.OperationalError("disk I/O error")
    failed.sqlite_errorcode = sqlite3.SQLITE_IOERR
    connection: Any = store._database.connection
    with monkeypatch.context() as patch:
        patch.setattr(store._database._log, "_connection", Interrupted(connection, "BEGIN IMMEDIATE"))
        with pytest.raises(KeyboardInterrupt), store._database.transaction():
            raise failed
    assert not connection.in_transaction


def test_interrupt_before_a_log_is_emptied_leaves_the_wait_for_other_writers_as_it_was(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection: Any = store._database.connection
    with monkeypatch.context() as patch:
        patch.setattr(store._database._log, "_connection", Interrupted(connection, "PRAGMA busy_timeout = 20"))
        with pytest.raises(KeyboardInterrupt), store._database.alone():
            store._database.empty_log()
    assert connection.execute("PRAGMA busy_timeout").fetchone() == (BUSY_TIMEOUT_MS,)


def test_transaction_left_open_by_an_interrupt_does_not_keep_the_last_one_from_moving_the_log(
    path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store._database.connection.execute("BEGIN IMMEDIATE")
    store._database.connection.execute("UPDATE store SET cleared = cleared + 1")
    store.close()
    assert not caplog.records
    assert not path.with_name(path.name + "-wal").exists()


def test_nobody_commits_or_checkpoints_while_the_file_is_written(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, others = fill(store, 1)
    blank(store)
    said = []
    clear_leftovers = scrubbing.clear_leftovers

    def cleared(path: Path, offsets: Sequence[int]) -> None:
        said.append(run(ONCE, path, 0).stdout)
        clear_leftovers(path, offsets)

    monkeypatch.setattr(scrubbing, "clear_leftovers", cleared)
    assert not store.finish_erasing()
    assert set(said) == {"database is locked\n"}
    assert standing(path) == others


@pytest.mark.parametrize("checkpoint", ["", "connection.execute('PRAGMA wal_checkpoint(RESTART)')"])
def test_file_is_not_written_when_somebody_committed_since_the_log_was_empty(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, checkpoint: str
) -> None:
    gone, _ = fill(store, 1)
    blank(store)
    empty_log, clear_leftovers = database.Database.empty_log, scrubbing.clear_leftovers
    said, emptied, cleared = [], [], []

    def empty(one: database.Database) -> bool:
        done = empty_log(one)
        emptied.append(done)
        if len(emptied) in (1, 3):  # before the file is looked through, and after
            said.append(run(ONCE.replace("47", f"47{len(said)}") + checkpoint, path, 5).stdout)
        return done

    monkeypatch.setattr(database.Database, "empty_log", empty)
    monkeypatch.setattr(scrubbing, "clear_leftovers", lambda *of: (cleared.append(of[1]), clear_leftovers(*of)))
    assert store.finish_erasing()
    assert (said, emptied, cleared) == (["committed\n"], [True], [])
    assert store.finish_erasing()
    assert (said, emptied, cleared) == (["committed\n"] * 2, [True] * 3, [[]])
    assert not store.finish_erasing()
    assert anywhere(path, gone) == set()


def test_file_stays_whole_while_somebody_else_writes_and_checkpoints(path: Path, store: Store) -> None:
    expected, erased = set(), set()
    command = [sys.executable, "-c", FOR_EVER, str(path), "5"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as foreign:
        assert foreign.stdout is not None
        assert foreign.stdout.readline() == "begun\n"
        for seed in range(ROUNDS):
            gone, kept = fill(store, seed)
            erased |= gone
            expected |= kept
            blank(store)
            store._database.scrubber.scrub()
            with open_store(path) as another:
                another._database.scrubber.scrub(waits_s=())
        last, _ = foreign.communicate(timeout=60)
    assert foreign.returncode == 0
    while store.finish_erasing():
        pass
    assert standing(path) == expected | set(last.split())
    assert anywhere(path, erased - expected) == set()


@pytest.fixture(scope="module")
def many_blanked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str], set[str]]:
    """A database with leftovers in many pages, to be copied; what was erased in it, and what stands."""
    path = tmp_path_factory.mktemp("blanked") / "kmp.db"
    new_database(path)
    with open_store(path) as store:
        gone, others = fill(store, 3, 12_000)
        blank(store)
    return path, gone, others


@pytest.mark.parametrize("pages", [0, 2])
def test_killed_in_the_middle_it_is_done_by_the_next(
    tmp_path: Path, many_blanked: tuple[Path, set[str], set[str]], pages: int
) -> None:
    blanked, gone, others = many_blanked
    path = Path(shutil.copy(blanked, tmp_path))
    assert anywhere(path, gone) != set()
    assert run(KILLED, path, pages).returncode == -signal.SIGKILL
    assert standing(path) == others
    with open_store(path) as store:
        assert store._database.rows("SELECT erase_log > 0 FROM store") == [(1,)]
        assert not store.finish_erasing()
    assert standing(path) == others
    assert anywhere(path, gone) == set()


def test_each_step_of_clearing_empties_the_caches_of_all(
    tmp_path: Path, many_blanked: tuple[Path, set[str], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that changes nothing would be none."""
    monkeypatch.setattr(scrubbing, "STEP_PAGES", 1)
    versions = []
    clear_leftovers = scrubbing.clear_leftovers

    def cleared(path: Path, offsets: Sequence[int]) -> None:
        versions.append(store.data_version())
        clear_leftovers(path, offsets)

    monkeypatch.setattr(scrubbing, "clear_leftovers", cleared)
    with open_store(Path(shutil.copy(many_blanked[0], tmp_path))) as store:
        assert not store.finish_erasing()
        versions.append(store.data_version())
    assert len(versions) > 3
    assert versions == sorted(set(versions))


def test_what_another_asked_for_meanwhile_stays_to_be_done(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted from 0 again, it has the number of what was asked for before."""
    fill(store, 1)
    blank(store)
    asked = store._database.rows("SELECT erase_log FROM store")
    find_leftovers = scrubbing.find_leftovers
    with open_store(path) as another, monkeypatch.context() as patch:

        def find(*of: Any) -> list[int]:
            with another._database.transaction() as connection:
                connection.execute("UPDATE store SET cleared = cleared + 1, erase_log = 0")
                connection.execute("UPDATE store SET erase_log = ?", asked[0])
            return find_leftovers(*of)

        patch.setattr(scrubbing, "find_leftovers", find)
        store._database.scrubber.scrub()
    assert store._database.rows("SELECT erase_log FROM store") == asked
    assert store._database.scrubber.scrub()
    assert store._database.rows("SELECT erase_log FROM store") == [(0,)]


class Refused:
    """A connection that cannot begin to write."""

    def __init__(self, why: str) -> None:
        self.asked: list[str] = []
        self._why = why

    def execute(self, sql: str) -> None:
        self.asked.append(sql)
        if sql == "BEGIN IMMEDIATE":
            raise sqlite3.OperationalError(self._why)

    def close(self) -> None: ...


def test_who_erases_waits_for_no_stranger_with_our_lock_and_passes_other_faults_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = Refused("database is locked")
    monkeypatch.setattr(scrubbing, "connect", lambda _: locked)
    assert not store._database.scrubber.scrub(waits_s=())
    assert locked.asked == ["PRAGMA busy_timeout = 0", "BEGIN IMMEDIATE"]
    monkeypatch.setattr(scrubbing, "connect", lambda _: Refused("disk I/O error"))
    with pytest.raises(StoreUnavailable, match="disk I/O error"):
        store._database.scrubber.scrub(waits_s=())


def test_file_is_looked_through_once_in_a_while(store: Store) -> None:
    for seed, done in ((1, True), (2, False)):
        fill(store, seed)
        blank(store)
        cleared = store._database.rows("SELECT cleared FROM store")
        assert store._database.scrubber.scrub(waits_s=(), scan_every_s=3_600) is done
    assert store._database.rows("SELECT cleared FROM store") == cleared
    assert store._database.scrubber.scrub(waits_s=())


def test_file_is_looked_through_again_after_a_reader_prevented_that_it_was_cleared(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who writes before the reader is gone may have moved what was found."""
    gone, _ = fill(store, 1)
    blank(store)
    scans = []
    find_leftovers = scrubbing.find_leftovers
    with open_store(path) as other, open_store(path) as reader:
        connection = reader._database.connection

        def find(path: Path, among: Iterable[int], stopping: Any) -> list[int]:
            scans.append(list(among))
            if len(scans) == 1:
                connection.execute("BEGIN")
                connection.execute("SELECT count(*) FROM subscribers").fetchone()
                with other._database.transaction() as writing:
                    writing.execute("UPDATE subscribers SET last_heard = last_heard + 1")
            return find_leftovers(path, scans[-1], stopping)

        monkeypatch.setattr(scrubbing, "find_leftovers", find)
        scrub = store._database.scrubber.scrub
        assert not scrub(waits_s=())
        assert not scrub(waits_s=(0, 0), scan_every_s=3_600)
        connection.execute("COMMIT")
    assert not scrub(waits_s=(), scan_every_s=3_600)
    assert anywhere(path, gone) == set()
    assert len(scans) == 1
    assert scrub(waits_s=(), scan_every_s=0)
    assert len(scans) == 2
    assert set(leftovers.all_pages(path)) <= set(scans[1])


def test_files_are_cleared_beside_one_who_reads_at_any_time_each_for_a_moment(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_ahead_log, "_WAIT_FOR_READERS_MS", 10_000)  # that moment may be long on this machine
    gone, _ = fill(store, 1)
    command = [sys.executable, "-c", READING, str(path), "5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reading:
        assert reading.stdout is not None
        reading.stdout.readline()
        blank(store)
        try:
            assert all(store._database.scrubber.scrub(waits_s=()) for _ in range(5))
        finally:
            reading.kill()  # else a failure would wait for it
    assert anywhere(path, gone) == set()


@pytest.mark.parametrize(("step_pages", "look_pages"), [(20, 2_000), (2_000, 2_000), (2_000, 100)])
@pytest.mark.parametrize("seed", [1, 15])  # with which a page with leftovers changes its place
def test_leftovers_go_wherever_their_page_went_while_the_file_was_looked_through(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, seed: int, step_pages: int, look_pages: int
) -> None:
    gone, others = fill(store, seed, 12_000)
    blank(store)
    chance, written = random.Random(seed), []
    looked = []
    find_leftovers = scrubbing.find_leftovers

    def write(database: database.Database, transactions: int) -> None:
        for _ in range(transactions):
            with database.transaction() as connection:
                for _ in range(25):
                    mdn = f"8613{seed:02}{chance.randrange(10**7):07}"
                    connection.execute(
                        "INSERT INTO subscribers (mdn, last_heard) VALUES (?, ?) ON CONFLICT DO NOTHING",
                        (mdn, NOW + HOUR),
                    )
                    written.append(mdn)
                    if len(written) > 100 and chance.random() < 0.5:
                        mdn = written.pop(chance.randrange(len(written)))
                        connection.execute("DELETE FROM subscribers WHERE mdn = ?", (mdn,))

    scrubber = store._database.scrubber
    empty_log, unmoved = database.Database.empty_log, []
    clear_leftovers, cleared, move_log = scrubbing.clear_leftovers, [], scrubbing.move_log

    def empty(one: database.Database) -> bool:
        _, frames, moved = in_log(one.connection)
        unmoved.append(frames - moved)
        return empty_log(one)

    with open_store(path) as other:

        def find(path: Path, among: Iterable[int], stopping: Any) -> list[int]:
            looked.append(list(among))
            write(other._database, 20)
            found = find_leftovers(path, looked[-1], stopping)
            write(other._database, 20)
            return found

        def clear(path: Path, offsets: Sequence[int]) -> None:
            cleared.append(len(offsets))
            clear_leftovers(path, offsets)

        def move(*of: Any) -> object:
            done = move_log(*of)
            write(other._database, 1)  # more pages than a step has
            return done

        monkeypatch.setattr(scrubbing, "find_leftovers", find)
        monkeypatch.setattr(scrubbing, "clear_leftovers", clear)
        monkeypatch.setattr(scrubbing, "move_log", move)
        monkeypatch.setattr(scrubbing, "STEP_PAGES", step_pages)
        monkeypatch.setattr(scrubbing, "LOOK_PAGES", look_pages)
        monkeypatch.setattr(database.Database, "empty_log", empty)
        assert scrubber.scrub()
    pages = [offset for offsets in looked for offset in offsets]
    assert pages == list(leftovers.all_pages(path))[: len(pages)]
    assert len(pages) > 300
    assert len(looked) == -(-len(pages) // look_pages)
    assert max(left for left in unmoved) < 200  # most was moved before, so that the writers need not wait for it
    assert (len(cleared) > 2) is (step_pages == 20 or look_pages == 100)
    assert scrubber._found == []
    assert anywhere(path, gone - {*written, *others}) == set()
    assert store._database.rows("SELECT erase_log FROM store") == [(0,)]


def test_pages_are_cleared_again_where_the_disk_did_not_take_it(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a sync that failed, the cache looks clear, and the disk need not be."""
    gone, _ = fill(store, 1)
    blank(store)
    cleared = []
    clear_leftovers = scrubbing.clear_leftovers

    def clear(path: Path, offsets: Sequence[int]) -> None:
        cleared.append(list(offsets))
        clear_leftovers(path, offsets)
        if len(cleared) == 2:  # at first none have been found
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(scrubbing, "clear_leftovers", clear)
    with pytest.raises(StoreUnavailable):
        store._database.scrubber.scrub()
    assert store._database.rows("SELECT erase_log > 0 FROM store") == [(1,)]
    assert store._database.scrubber.scrub()
    assert cleared[0] == []
    assert set(cleared[1]) <= set(cleared[2])
    assert cleared[1] != []
    assert anywhere(path, gone) == set()


def test_two_clear_the_same_files_in_turn(path: Path, store: Store) -> None:
    gone, _ = fill(store, 1)
    blank(store)
    done = []
    with open_store(path) as another:
        both = [
            threading.Thread(target=lambda one=one: done.append(one._database.scrubber.scrub()))
            for one in (store, another)
        ]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join(60)
    assert done == [True, True]
    assert anywhere(path, gone) == set()


def test_file_whose_pages_cannot_be_told_apart_is_left_alone_and_that_is_said_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kmp_smsd.storage.leftovers._PAGES_MAX", 1)
    fill(store, 1)
    for _ in range(2):
        assert store._database.scrubber.scrub()
    (said,) = [record.getMessage() for record in caplog.records]
    assert "may stay in unused parts" in said
    assert store._database.rows("SELECT cleared FROM store") == [(2,)]  # nothing but the log, each time in one step
