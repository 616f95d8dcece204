from __future__ import annotations

import pytest
from pysqlite3 import dbapi2 as sqlite3
from twisted.logger import LogLevel

from kmp_smsd.service import thread
from kmp_smsd.service.erasing import LOOK_EVERY_S, SCAN_EVERY_S, Eraser
from kmp_smsd.storage import StoreUnavailable, open_store, scrubbing
from tests.service.by_hand import PoolByHand, ReactorByHand, finished
from tests.storage.fresh import new_database
from tests.storage.stock import NOW, A, B, confirm_all, import_keys, register, settle, sync


class At:
    """An eraser, and a store in which others erase."""

    def __init__(self, path, patch):
        patch.setattr(thread, "OneThread", PoolByHand.one_thread)
        new_database(path)
        self.reactor = ReactorByHand()
        self.store, self.mine = open_store(path), open_store(path)
        self.eraser = Eraser(self.mine, self.reactor, monotonic=self.reactor.seconds)
        self.pool = self.eraser._thread.thread
        self.eraser.startService()
        self.pool.run()

    def look(self, times=1):
        for _ in range(times):
            self.reactor.advance(LOOK_EVERY_S)
            self.pool.run()

    def left(self):
        return self.mine._database.rows("SELECT erase_log FROM store")[0][0]


@pytest.fixture
def at(tmp_path, monkeypatch):
    made = At(tmp_path / "kmp.db", monkeypatch)
    yield made
    made.store.close()
    made.mine.close()


def erase(at, mdn=A, key="KEY-1"):
    at.store.routes.set({"meter": "metering"})
    import_keys(at.store, key)
    register(at.store, mdn, "meter")
    settle(at.store, sync(mdn, key))
    confirm_all(at.store)
    at.store.erasing.erase(mdn, NOW + 1)


def test_subscriber_is_blanked_when_the_last_platform_has_confirmed(at):
    erase(at)
    at.look(5)
    assert at.store.erasing.show(A) is not None
    confirm_all(at.store, now=NOW + 1)
    at.look()
    assert at.store.erasing.show(A) is None
    assert at.left() == 0


def test_log_is_emptied_after_the_reader_is_gone_though_nobody_writes(at):
    erase(at)
    confirm_all(at.store, now=NOW + 1)
    reading = at.store._database.connection.execute("SELECT * FROM sqlite_schema")
    reading.fetchone()
    at.look(5)
    assert at.left() == 1
    reading.close()
    at.look()
    assert at.left() == 0


def test_file_is_looked_through_once_a_minute(at, monkeypatch):
    scans = []
    find_leftovers = scrubbing.find_leftovers
    monkeypatch.setattr(scrubbing, "find_leftovers", lambda *of: (scans.append(of), find_leftovers(*of))[1])
    erase(at)
    confirm_all(at.store, now=NOW + 1)
    at.look()
    erase(at, B, "KEY-2")
    confirm_all(at.store, now=NOW + 2)
    at.look(20)
    assert (len(scans), at.left()) == (1, 1)
    assert at.store.erasing.show(B) is None
    at.mine._database.scrubber._searched_at -= SCAN_EVERY_S
    at.look(5)
    assert (len(scans), at.left()) == (2, 0)


@pytest.mark.parametrize("error", [StoreUnavailable("locked"), sqlite3.DatabaseError("malformed"), ValueError("ours")])
def test_fault_is_said_every_ten_seconds_and_mended_by_itself(at, monkeypatch, events, error):
    erase(at)
    confirm_all(at.store, now=NOW + 1)
    with monkeypatch.context() as patch:
        patch.setattr(at.mine.erasing, "finish", lambda: (_ for _ in ()).throw(error))
        at.look(25)
    said = [event for event in events if event["log_level"] >= LogLevel.error]
    assert [event["log_format"].startswith("nothing is erased") for event in said] == [True] * 3
    at.look()
    assert at.store.erasing.show(A) is None


def test_stop_waits_for_the_step_under_way_which_looks_no_further(at, monkeypatch):
    erase(at)
    confirm_all(at.store, now=NOW + 1)
    find_leftovers = scrubbing.find_leftovers
    found, ended = [], []

    def find(path, among, stopping):
        finished(at.eraser.finish()).addCallback(ended.append)
        found.append((stopping(), find_leftovers(path, among, stopping), list(ended)))
        return found[0][1]

    monkeypatch.setattr(scrubbing, "find_leftovers", find)
    at.look()
    assert found == [(True, [], [])]
    assert (ended, at.pool.stopped) == ([None], True)
    assert at.store._database.rows("SELECT erase_log FROM store") == [(1,)]
    at.look(3)
    assert at.pool.waiting() == []
