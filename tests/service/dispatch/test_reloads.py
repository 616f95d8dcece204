"""Platforms that come, change or go with a reload."""

from __future__ import annotations

from contextlib import closing

import pytest
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.service.dispatch import WATCH_EVERY_S
from kmp_smsd.service.dispatch_worker import STOP_WITHIN_S
from kmp_smsd.storage.outbox import Postpone
from tests.service.by_hand import finished
from tests.service.dispatch.stage import At, DelivererByHand
from tests.storage.stock import routes_of


def test_platform_that_comes_with_a_reload_is_served_and_routed(start):
    at = start(1, due=[1])
    assert at.reload(fresh=["p2"]) == [[]]
    at.make_due(2)
    at.look(2)
    assert at.begun() == ["p1", "p2"]
    assert routes_of(at.store) == {"app-1": "p1", "app-2": "p2"}
    assert at.by_name["p1"].done == []


def test_platform_that_is_gone_finishes_what_is_under_way(start):
    at = start(2, due=[1, 2])
    gone = at.by_name["p1"]
    settled = at.reload(gone=["p1"])
    assert (gone.done, settled) == (["stop"], [])
    at.pool.run_one(gone.run)
    at.pool.run_one(gone.close)
    assert (gone.done, len(settled)) == (["stop", "close"], 1)
    at.make_due(1, keys=False)
    at.look(3)
    assert at.begun() == ["p2"]
    assert list(at.dispatcher.workers.names()) == ["p2"]


def test_platform_that_is_gone_and_hangs_is_ended_by_force(start):
    at = start(1, due=[1])
    gone = at.by_name["p1"]
    at.reload(gone=["p1"])
    at.reactor.advance(STOP_WITHIN_S)
    assert gone.done == ["stop", "abort"]


def test_changed_platform_begins_anew_when_its_last_run_has_ended_and_goes_on_counting(start):
    at = start(1, due=[1])
    old = at.by_name["p1"]
    old.counts.confirmed = 7
    settled = at.reload(fresh=["p1"])
    at.look(3)
    assert (at.by_name["p1"].runs, settled) == (0, [])
    at.pool.run_one(old.run)
    at.look(3)
    assert at.begun() == []
    at.pool.run_one(old.close)
    assert len(settled) == 1
    at.look()
    at.end("p1")
    assert (old.runs, at.by_name["p1"].runs) == (1, 1)
    assert at.dispatcher.workers.served()[0].counts.confirmed == 7


def test_paused_platform_that_changed_is_paused_still(start):
    at = start(1)
    at.dispatcher.workers.pause("p1")
    at.reload(fresh=["p1"])
    at.pool.run()
    at.make_due(1)
    at.look(2)
    assert (at.begun(), at.words()) == ([], {"p1": "paused"})
    at.dispatcher.workers.resume("p1")
    at.look()
    assert at.begun() == ["p1"]


def test_what_failed_before_a_reload_is_tried_at_once_where_the_platform_changed(start):
    at = start(3)
    at.look(3)  # what had failed before the start
    at.make_due(2, 3)
    at.settle(2, 3, try_at=at.now + 3_600_000)
    with closing(sqlite3.connect(str(at.store._database.path), isolation_level=None)) as connection:
        connection.execute("UPDATE outbox SET attempts = 1")
    at.look(2)
    assert at.begun() == []
    at.reload(gone=["p1"])
    at.look(3)
    assert at.begun() == []
    at.reload(fresh=["p2"])
    at.pool.run()
    at.look(3)
    assert at.begun() == ["p2"]


def test_what_failed_before_a_start_is_tried_at_once_though_a_reload_comes_soon(tmp_path, monkeypatch):
    at = At(tmp_path / "kmp.db", monkeypatch, {name: DelivererByHand(name) for name in ("p1", "p2")})
    at.store.routes.set(at.routes)
    at.make_due(2)
    (row,) = at.store.outbox.due("p2", at.now, 10)
    at.store.outbox.settle("p2", [Postpone(row, at.now + 3_600_000, "down")], at.now)
    at.dispatcher.startService()
    at.reload(gone=["p1"])
    at.look(3)
    assert at.begun() == ["p2"]
    at.store.close()
    at.mine.close()


def test_end_waits_for_platforms_that_are_gone(start):
    at = start(1, due=[1])
    gone = at.by_name["p1"]
    at.reload(gone=["p1"])
    ended = []
    finished(at.dispatcher.finish()).addCallback(ended.append)
    assert ended == []
    at.pool.run()
    at.watcher.run()
    assert (gone.done, len(ended)) == (["stop", "close"], 1)


@pytest.mark.parametrize("fresh", [(), ("p1",)])
def test_a_drain_waits_for_workers_that_a_reload_has_end(start, fresh):
    at = start(2, due=[1])
    old = at.by_name["p1"]
    at.reload(fresh=fresh, gone=() if fresh else ("p1",))
    drained = []
    at.dispatcher.workers.drain().addCallback(drained.append)
    at.pool.run_one(old.run)
    assert drained == []
    at.pool.run_one(old.close)
    at.pool.run()
    assert len(drained) == 1


def test_a_look_that_a_reload_came_between_harms_nothing(start, events):
    at = start(2)
    at.make_due(1, 2)
    at.reactor.advance(WATCH_EVERY_S)  # a look at p1 and p2 waits for its thread
    at.by_name.pop("p1")
    at.dispatcher.reconfigure({"app-2": "p2"}, {}, ["p1"])
    at.watcher.run()
    at.look(2)
    assert at.begun() == ["p2"]
    assert [event for event in events if "log_failure" in event] == []
