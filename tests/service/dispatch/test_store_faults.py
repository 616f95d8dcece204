"""A store that fails, and faults of ours: looking goes on, and the log tells of it seldom."""

from __future__ import annotations

import pytest
from twisted.logger import LogLevel

from kmp_smsd.storage import StoreUnavailable
from tests.service.by_hand import alarms
from tests.service.dispatch.stage import At, DelivererByHand
from tests.storage.stock import routes_of


@pytest.mark.parametrize("kind", [StoreUnavailable, RuntimeError])
def test_fault_that_lasts_is_logged_every_ten_seconds(start, monkeypatch, events, kind):
    at = start()
    reason = "one reason"

    def fail():
        raise kind(reason)

    monkeypatch.setattr(at.mine, "data_version", fail)
    at.make_due(1)
    at.look(205)
    faults = [event for event in events if event["log_level"] >= LogLevel.error]
    assert len(faults) == 3
    reason = "another reason"
    at.look(2)
    faults = [event for event in events if event["log_level"] >= LogLevel.error]
    assert len(faults) == 4


def test_fault_in_assigning_that_lasts_is_logged_every_ten_seconds(start, monkeypatch, events):
    at = start()
    at.make_due(1)
    monkeypatch.setattr(at.dispatcher.workers, "_may_open", lambda _: 1 / 0)
    at.look(205)
    assert len(alarms(events)) == 3


@pytest.mark.parametrize("error", [StoreUnavailable("locked"), RuntimeError("a fault of ours")])
def test_looking_goes_on_after_a_fault(start, monkeypatch, events, error):
    at = start()
    at.make_due(1)

    def fail():
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(at.mine, "data_version", fail)
        at.look(3)
    assert at.begun() == []
    at.look()
    assert at.begun() == ["p1"]
    assert bool(alarms(events)) == isinstance(error, RuntimeError)


def test_what_was_not_looked_up_is_looked_up_again(start, monkeypatch):
    at = start()
    at.make_due(1)
    with monkeypatch.context() as patch:
        patch.setattr(at.mine.outbox, "next_try", lambda *_: (_ for _ in ()).throw(StoreUnavailable("locked")))
        at.look()
    at.look()
    assert at.begun() == ["p1"]


def test_looking_goes_on_after_a_fault_in_assigning(start, monkeypatch, events):
    at = start()
    at.make_due(1)
    with monkeypatch.context() as patch:
        patch.setattr(at.dispatcher.workers, "_may_open", lambda _: 1 / 0)
        at.look()
    assert len(alarms(events)) == 1
    at.look()
    assert at.begun() == ["p1"]


def test_routes_are_set_though_the_store_fails_at_first(tmp_path, monkeypatch):
    at = At(tmp_path / "kmp.db", monkeypatch, {"p1": DelivererByHand("p1")})
    at.make_due(1)  # for an app that is routed nowhere
    with monkeypatch.context() as patch:
        patch.setattr(at.mine.routes, "set", lambda _: (_ for _ in ()).throw(StoreUnavailable("locked")))
        at.start()
        at.look(3)
    assert routes_of(at.store) == {}
    at.look(3)
    assert routes_of(at.store) == {"app-1": "p1"}
    assert at.begun() == ["p1"]
    at.store.close()
    at.mine.close()


def test_thread_that_waits_for_another_s_write_lock_is_not_stuck(start, monkeypatch):
    """Who was stopped in the middle of a transaction is not helped by ending us."""
    at = start(1)
    waits = at.mine.lock_wait
    monkeypatch.setattr(type(waits), "is_for_others", property(lambda which: which is waits))
    assert at.dispatcher.thread.busy.waits_for_others
