"""What a dispatcher waits for before it ends, and when it waits no longer."""

from __future__ import annotations

import pytest

from kmp_smsd.service.dispatch import WATCH_EVERY_S
from tests.service.by_hand import finished


def test_idle_dispatcher_finishes_and_closes_everything(start):
    at = start(due=(1,))
    at.settle(1)
    at.end("p1")
    ended = []
    finished(at.dispatcher.finish(), at.pool, at.watcher).addCallback(ended.append)
    assert ended == [None]
    assert [at.by_name[name].done for name in ("p1", "p2")] == [["stop", "close"]] * 2
    assert (at.pool.stopped, at.watcher.stopped) == (True, True)
    assert at.reactor.getDelayedCalls() == []
    with pytest.raises(Exception, match="closed"):
        at.mine.journal.tallies()


def test_finishing_waits_for_the_workers_and_begins_nothing(start):
    at = start(due=(1,))
    ended = []
    finished(at.dispatcher.finish(), at.watcher).addCallback(ended.append)
    at.make_due(2)
    at.reactor.pass_time(5)
    at.watcher.run()
    assert at.begun() == ["p1"]
    assert ended == []
    assert at.by_name["p1"].done == ["stop"]
    at.end("p1")
    finished(nothing(), at.pool, at.watcher)
    assert ended == [None]
    assert at.by_name["p1"].done == ["stop", "close"]
    assert at.reactor.getDelayedCalls() == []


async def nothing():
    pass


def test_what_goes_on_after_a_drain_begins_nothing_once_all_is_ending(start):
    at = start()
    at.dispatcher.workers.drain()
    ended = []
    finished(at.dispatcher.finish(), at.watcher).addCallback(ended.append)
    at.dispatcher.workers.go_on()
    at.dispatcher.workers.assign({"p1": 1}, {})
    assert at.begun() == []
    finished(nothing(), at.pool, at.watcher)
    assert ended == [None]


def test_workers_that_do_not_end_are_aborted_after_ten_seconds(start):
    at = start(due=(1,))
    finished(at.dispatcher.finish(), at.watcher)
    at.reactor.pass_time(9.9)
    assert at.by_name["p1"].done == ["stop"]
    at.reactor.pass_time(0.2)
    assert at.by_name["p1"].done == ["stop", "abort"]


def test_look_under_way_ends_before_the_store_closes(start):
    at = start()
    at.make_due(1)
    at.reactor.advance(WATCH_EVERY_S)
    ended = []
    finished(at.dispatcher.finish()).addCallback(ended.append)
    assert ended == []
    finished(nothing(), at.watcher, at.pool)
    assert ended == [None]
    assert at.by_name["p1"].runs == 0
