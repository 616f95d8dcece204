"""A wall clock that is set, and one that was ahead and is set back."""

from __future__ import annotations

import pytest

from tests.service.dispatch.stage import At, DelivererByHand, failed

# A wall clock that is set

DAY_S = 86_400


@pytest.mark.parametrize("set_by_s", [-30 * DAY_S, -2 * DAY_S, -600, 600, 2 * DAY_S, 30 * DAY_S])
def test_platform_that_failed_waits_as_long_though_the_clock_is_set(start, set_by_s):
    at = start(due=(1,))
    failed(at, "p1", 5)
    at.set_clock(set_by_s)
    at.settle(1, try_at=at.now)
    at.look(45)
    begun = at.begun()
    at.look(10)
    assert (begun, at.begun()) == ([], ["p1"])


@pytest.mark.parametrize("set_by_s", [-30 * DAY_S, -2 * DAY_S])
def test_delivery_that_waits_is_due_when_the_clock_is_set_back_by_days(start, set_by_s):
    at = start(due=(1,))
    at.settle(1, try_at=at.now + 900_000)
    at.end("p1")
    at.look(10)
    assert at.begun() == []
    at.set_clock(set_by_s)
    at.look()
    assert at.begun() == ["p1"]


def test_nothing_is_stuck_after_a_clock_that_ran_ahead_for_a_while(start):
    at = start(due=(1,))
    at.set_clock(30 * DAY_S)
    at.settle(1, try_at=at.now + 900_000)
    at.make_due(2)
    at.end("p1")
    at.look(10)
    assert at.begun() == ["p2"]
    failed(at, "p2", 5)
    at.look()
    at.set_clock(0)
    at.look()
    assert at.begun() == ["p1"]
    at.look(55)
    assert at.begun() == ["p1", "p2"]


def test_wish_is_heeded_though_the_clock_was_set_back(start):
    at = start(due=(1,))
    at.look()
    at.store.renewing.retry(at.now, platform="p1")
    at.look()
    failed(at, "p1", 900)
    at.look()
    failed(at, "p1", 900)
    at.set_clock(-600)
    at.store.renewing.retry(at.now, platform="p1")
    at.look()
    assert at.begun() == ["p1"]


# A clock that is set back


def test_what_a_clock_that_was_ahead_wanted_is_tried_when_it_is_set_back(start, events):
    at = start()
    at.set_clock(20 * 3600)
    at.look()
    at.make_due(1)
    at.make_due(2, after_ms=3_600_000)  # put off
    at.set_clock(0)
    at.look(3)
    assert sorted(at.begun()) == ["p1", "p2"]
    assert [event["seconds"] for event in events if event.get("event") == "clock_set_back"] == [20 * 3600]


def test_what_a_clock_that_was_ahead_wanted_is_tried_after_a_start(tmp_path, monkeypatch):
    at = At(tmp_path / "kmp.db", monkeypatch, {"p1": DelivererByHand("p1")})
    at.set_clock(20 * 3600)
    at.store.routes.set({"app-1": "p1"})
    at.make_due(1)
    at.set_clock(0)
    at.start()
    at.look(3)
    assert at.begun() == ["p1"]
    at.store.close()
    at.mine.close()
