"""Who closes a store last moves its log, or leaves all of it to the next one."""

from __future__ import annotations

import fcntl
import gc
import os
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from types import FrameType

import pytest
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage import checkpoint, descriptors, open_store
from kmp_smsd.storage.connection import connect
from tests.storage.log_by_hand import STRANGER, add, log_of, no_file_grows_beyond, registered

READER = """
import sys
from pathlib import Path
from kmp_smsd.storage.connection import connect
connection = connect(Path(sys.argv[1]))
connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
print("open", flush=True)
sys.stdin.read()
"""


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


@pytest.mark.parametrize("before", ["SELECT 1", "BEGIN IMMEDIATE"])  # a transaction that was interrupted on its way out
def test_connection_that_is_closed_is_closed_however_long_somebody_keeps_it(path: Path, before: str) -> None:
    connection = connect(path)
    connection.execute("CREATE TABLE one (value)")
    connection.execute(before).fetchall()
    checkpoint.close(connection, path)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_who_closes_leaves_the_log_to_those_that_still_have_it_open(path: Path) -> None:
    octets = path.stat().st_size
    store = open_store(path)
    with subprocess.Popen([sys.executable, "-c", READER, path], stdin=PIPE, stdout=PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        add(store, 0, 3_000)
        store.close()
        assert path.stat().st_size == octets
        reader.communicate()


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
