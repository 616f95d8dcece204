from __future__ import annotations

import pytest

from kmp_smsd.service import thread
from kmp_smsd.service.busy import Busy
from kmp_smsd.service.counting import COUNT_EVERY_S, REST, Counting
from kmp_smsd.storage import StoreUnavailable, open_store
from kmp_smsd.storage.figures import DueFigures, RejectedFigures
from tests.service.by_hand import PoolByHand, ReactorByHand, finished
from tests.service.vendor import make_due
from tests.storage.fresh import new_database
from tests.storage.stock import import_keys, reject_all

WALL_S = 1_732_380_000.0


class At:
    def __init__(self, path):
        new_database(path)
        self.reactor = ReactorByHand()
        self.store, self.mine = open_store(path), open_store(path)
        self.names = ["metering"]
        self.thread = Busy(self.reactor.seconds)
        self.counting = Counting(
            self.mine,
            lambda: self.names,
            self.thread,
            self.reactor,
            monotonic=self.reactor.seconds,
            wall=lambda: WALL_S + self.reactor.seconds(),
        )
        self.pool = self.counting._thread.thread
        self.counting.startService()
        self.pool.run()

    def look(self):
        self.reactor.advance(COUNT_EVERY_S)
        self.pool.run()

    def make_due(self, number):
        import_keys(self.store, f"KEY-{number}")
        self.store.routes.set({"meter": "metering"})
        make_due(self.store, number)


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.setattr(thread, "OneThread", PoolByHand.one_thread)
    made = At(tmp_path / "kmp.db")
    yield made
    made.store.close()
    made.mine.close()


def test_what_is_due_is_counted_every_few_seconds(at):
    assert at.counting.due == {"metering": DueFigures()}
    at.make_due(1)
    at.look()
    assert at.counting.due["metering"].count == 1
    assert at.counting.rejected == {"metering": RejectedFigures()}
    assert at.counting.store_watch.read_at == WALL_S + COUNT_EVERY_S
    assert at.counting.store_watch.last_write_at is None  # who only counts writes nothing


def test_platforms_may_come_and_go(at):
    at.names = ["fleet"]
    at.look()
    assert list(at.counting.due) == ["fleet"]


def test_what_is_due_at_a_platform_without_a_file_is_counted_as_long_as_something_is(at):
    at.make_due(1)
    at.names = ["fleet"]
    at.look()
    assert [(name, figures.count) for name, figures in at.counting.due.items()] == [("fleet", 0), ("metering", 1)]
    ((name, found),) = at.counting.unserved.items()
    assert (name, found.apps, found.since) == ("metering", ("meter",), WALL_S + COUNT_EVERY_S)
    at.look()
    assert at.counting.unserved["metering"].since == found.since
    at.store.platforms.wish_forgotten("metering", 1)
    at.look()
    assert (list(at.counting.due), at.counting.unserved) == (["fleet"], {})


def test_what_a_platform_without_a_file_rejected_is_told_until_somebody_has_it_forgotten(at):
    at.make_due(1)
    reject_all(at.store)
    at.names = ["fleet"]
    at.look()
    assert list(at.counting.unserved) == ["metering"]
    assert (at.counting.due["metering"].count, at.counting.rejected["metering"].count) == (0, 1)
    at.store.platforms.wish_forgotten("metering", 1)
    at.look()
    assert at.counting.unserved == {}


def test_a_platform_without_a_file_is_told_together_with_what_is_due_there(at):
    at.make_due(1)
    at.names, told, real = ["fleet"], [], at.mine.figures.rejected

    def rejected(name):
        told.append((dict(at.counting.unserved), "metering" in at.counting.due))
        return real(name)

    at.mine.figures.rejected = rejected
    at.look()
    assert told == [({}, True)] * 2  # as of when it had its file
    assert list(at.counting.unserved) == ["metering"]


def test_what_is_due_where_no_file_names_the_app_is_counted(at):
    import_keys(at.store, "KEY-1")
    make_due(at.store, 1)
    at.look()
    assert (list(at.counting.unserved), at.counting.due[""].count) == ([""], 1)


def test_counting_that_takes_long_rests_long(at):
    counted, real = [], at.mine.figures.due

    def slow(name):
        counted.append(name)
        at.reactor.rightNow += 3.0
        return real(name)

    at.mine.figures.due = slow
    at.look()
    assert len(counted) == 1
    read_at = at.counting.store_watch.read_at
    for _ in range(int(3 * REST / COUNT_EVERY_S) - 1):
        at.look()
    assert len(counted) == 1
    assert at.counting.store_watch.read_at > read_at  # how the store is, is looked at all the same
    at.look()
    at.look()
    assert len(counted) == 2


def test_store_that_fails_keeps_the_last_count_and_is_told_once(at, events):
    at.make_due(1)
    at.look()

    def fail(_name):
        raise StoreUnavailable("disk full")

    at.mine.figures.due = fail
    at.look()
    at.look()
    assert at.counting.due["metering"].count == 1
    assert [event["reason"] for event in events if "reason" in event] == ["disk full"]


def test_figures_of_the_store_do_not_wait_for_all_platforms(at):
    at.names = [f"p{number}" for number in range(50)]
    ages, real = [], at.mine.figures.due

    def slow(name):
        ages.append(WALL_S + at.reactor.seconds() - at.counting.store_watch.read_at)
        at.reactor.rightNow += 3.0
        return real(name)

    at.mine.figures.due = slow
    at.look()
    assert len(ages) == len(at.counting.due) == 50
    assert max(ages) <= COUNT_EVERY_S


def test_count_that_takes_minutes_is_no_silence_of_dispatch_which_looks_on(at):
    at.reactor.advance(COUNT_EVERY_S)
    at.pool.run_one()  # how the store is; the count itself is under way
    for _ in range(200):
        at.thread.begun()
        at.reactor.rightNow += 1.0
        at.thread.ended(None)
    assert at.counting.store_watch.silent_s == 0
    at.thread.begun()
    at.reactor.rightNow += 30.0
    assert at.counting.store_watch.silent_s == 30.0


def test_end_does_not_wait_for_all_platforms(at):
    at.names = [f"p{number}" for number in range(50)]
    at.reactor.advance(COUNT_EVERY_S)
    at.pool.run_one()  # how the store is
    counted, real = [], at.mine.figures.due
    at.mine.figures.due = lambda name: (counted.append(name), real(name))[1]
    ended = []
    finished(at.counting.finish(), at.pool).addCallback(ended.append)
    assert (len(counted) <= 1, ended) == (True, [None])


def test_end_waits_for_the_count_under_way(at):
    at.reactor.advance(COUNT_EVERY_S)
    done, rejected, close = [], at.mine.figures.rejected, at.mine.close
    at.mine.figures.rejected = lambda name: (done.append("counted"), rejected(name))[1]
    at.mine.close = lambda: (done.append("closed"), close())[1]
    ended = []
    finished(at.counting.finish(), at.pool).addCallback(ended.append)
    assert (done, ended) == (["counted", "closed"], [None])
    assert at.pool.stopped
