from __future__ import annotations

import functools
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from twisted.internet.defer import Deferred

from kmp_smsd.service.busy import Busy
from kmp_smsd.service.store_watch import PROBE_EVERY_S, StoreWatch
from kmp_smsd.storage import StoreUnavailable, open_store
from tests.storage.fresh import new_database

WALL_S = 1_732_380_000.0


class At:
    """A watch on a real store, whose thread does its jobs when the test says so."""

    def __init__(self, path, **options):
        new_database(path)
        self.store = open_store(path)
        self.now = 0.0
        self.jobs = []
        self.thread = Busy(lambda: self.now)
        self.probes = 0
        probe = self.store.figures.probe

        @functools.wraps(probe)
        def counted():
            self.probes += 1
            probe()

        self.store.figures.probe = counted
        self.watch = StoreWatch(
            self.store,
            self.in_thread,
            self.thread,
            monotonic=lambda: self.now,
            wall=lambda: WALL_S + self.now,
            **options,
        )

    def in_thread(self, call, *args):
        self.thread.begun()
        ended = Deferred().addBoth(self.thread.ended)
        self.jobs.append((ended, call, args))
        return ended

    def run(self):
        while self.jobs:
            ended, call, args = self.jobs.pop(0)
            try:
                result = call(*args)
            except Exception:  # whatever it was, as a thread pool does
                ended.errback()
            else:
                ended.callback(result)

    def measure(self):
        self.watch.measure()
        self.run()


@contextmanager
def watching(path, **options):
    at = At(path, **options)
    yield at
    at.store.close()


@pytest.fixture
def at(tmp_path):
    with watching(tmp_path / "kmp.db") as one:
        yield one


def test_figures_are_those_of_the_last_measure(at):
    assert at.watch.figures is None
    at.measure()
    assert at.watch.figures.octets > 0
    assert (at.watch.figures.journal_head, at.watch.read_at, at.watch.error) == (0, WALL_S, None)


def test_a_store_is_written_to_a_little_now_and_then(at):
    at.measure()
    assert (at.probes, at.watch.last_write_at) == (1, WALL_S)
    at.now = PROBE_EVERY_S - 1
    at.measure()
    assert at.probes == 1
    at.watch.settled(0.5)
    assert at.watch.last_write_s == 0.5
    at.now = PROBE_EVERY_S + 1  # by another connection: of this one it tells nothing
    probe = at.store.figures.probe

    def slow():
        at.now += 0.25
        probe()

    at.store.figures.probe = slow
    at.measure()
    assert (at.probes, at.watch.last_write_s) == (2, 0.25)


def test_what_is_wrong_with_our_connection_stays_though_another_settles(at, monkeypatch):
    def replaced():
        raise StoreUnavailable("was removed or replaced under us")

    monkeypatch.setattr(at.store.figures, "probe", replaced)
    at.measure()
    at.watch.settled(0.5)
    assert at.watch.error == "was removed or replaced under us"


def test_a_store_is_available_again_when_nothing_is_wrong_with_it_any_more(at, events):
    at.watch.not_settled("disk full")
    at.watch.not_settled_again("disk full")
    at.watch.settled(0.5)
    assert events == []
    at.watch.settled_again()
    assert [event["event"] for event in events] == ["store_available"]


def test_reason_that_says_nothing_is_one_all_the_same(at):
    at.watch.not_settled("")
    assert at.watch.error == ""


def test_who_does_not_write_is_not_made_to(tmp_path):
    with watching(tmp_path / "kmp.db", writes=False) as at:
        at.measure()
        assert (at.probes, at.watch.last_write_at, at.watch.read_at) == (0, None, WALL_S)


def test_who_does_not_write_is_well_again_with_the_next_measure(tmp_path, monkeypatch):
    with watching(tmp_path / "kmp.db", writes=False) as at:
        with monkeypatch.context() as patch:
            patch.setattr(at.store.figures, "store", fails(StoreUnavailable("gone")))
            at.measure()
        assert at.watch.error == "gone"
        at.measure()
        assert at.watch.error is None


def test_who_writes_is_well_again_with_the_next_write(at, monkeypatch):
    at.measure()
    with monkeypatch.context() as patch:
        patch.setattr(at.store.figures, "store", fails(StoreUnavailable("gone")))
        at.measure()
    at.measure()
    assert at.watch.error == "gone"
    at.now += PROBE_EVERY_S
    at.measure()
    assert at.watch.error is None


def test_a_stuck_store_is_silent_and_nobody_waits_for_it(at):
    first = at.watch.measure()
    at.now = 30.0
    assert at.watch.measure() is first
    assert not first.called
    assert len(at.jobs) == 1
    assert (at.watch.stuck_s, at.watch.silent_s) == (30.0, 30.0)
    at.run()
    assert first.called
    assert (at.watch.stuck_s, at.watch.silent_s) == (0.0, 0.0)


def test_role_is_as_stuck_as_the_thread_that_is_so_for_longest(tmp_path):
    deciding = SimpleNamespace(stuck_s=61.0, waits_for_others=False)
    with watching(tmp_path / "kmp.db", deciding=deciding) as at:
        at.watch.measure()
        at.now = 30.0
        assert at.watch.stuck_s == 61.0
        at.now = 90.0
        assert at.watch.stuck_s == 90.0


def test_store_that_nobody_asks_any_more_is_silent_and_waits_for_nobody(at):
    at.measure()
    at.now = 600.0
    assert (at.watch.stuck_s, at.watch.silent_s, at.watch.waits_for_others) == (0.0, 600.0, False)


def test_a_store_that_says_no_is_not_silent_and_is_well_again_when_it_says_yes(at, events):
    probe, at.store.figures.probe = at.store.figures.probe, fails(StoreUnavailable("disk full"))
    at.now = 20.0
    at.measure()
    assert (at.watch.error, at.watch.silent_s) == ("disk full", 0.0)
    assert events == []
    at.store.figures.probe = probe
    for _ in range(2):
        at.measure()
        assert at.watch.error is None
        assert [event["event"] for event in events] == ["store_available"]


def test_a_fault_of_ours_is_logged(at, events):
    at.store.figures.probe = fails(RuntimeError("a fault of ours"))
    at.measure()
    assert at.watch.error == "a fault of ours"
    at.store.figures.probe = fails(MemoryError())
    at.measure()
    assert "MemoryError" in at.watch.error
    assert any("log_failure" in event for event in events)


def fails(error):
    def fail():
        raise error

    return fail
