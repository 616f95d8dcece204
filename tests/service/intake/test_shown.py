"""What is counted, and what shows of a store or an inbox that is stuck."""

from __future__ import annotations

import pytest

from kmp_smsd.service.deciding import DecidingHere
from kmp_smsd.service.health import STUCK_MAX_S
from kmp_smsd.service.intake import Load
from kmp_smsd.storage import StoreUnavailable
from tests.service.by_hand import SmscByHand, link, mo
from tests.service.intake.stage import NOW_S, in_inbox


def test_outcomes_and_messages_over_a_limit_are_counted(start):
    at = start(north=link(in_flight_max=2))
    at.intake.messages(SmscByHand(), (mo(1), mo(2, text="hello"), mo(3)))
    load = at.intake.load("north")
    assert (load.in_flight, load.in_flight_max, load.throttled) == (2, 2, 1)
    at.run()
    assert at.intake.load("north").in_flight == 0
    assert sum(at.intake.outcomes.values()) == 2
    assert at.intake.outcomes["malformed"] == 1
    assert at.intake.load("nowhere") == Load()


def test_store_is_known_to_have_been_written_to_after_a_batch(at):
    at.intake.messages(SmscByHand(), (mo(1),))
    at.pool.run()
    at.intake.settler.look()
    at.reactor.advance(0.05)
    at.pool.run()
    assert at.intake.store_watch.last_write_at == NOW_S + 0.05
    assert at.intake.store_watch.last_write_s == pytest.approx(0.05)


def test_store_that_hangs_shows_while_the_reactor_goes_on(at):
    at.intake.messages(SmscByHand(), (mo(1),))
    at.reactor.pass_time(5)
    assert at.intake.store_watch.stuck_s == pytest.approx(5)
    at.run()
    assert at.intake.store_watch.stuck_s == 0


def test_who_hangs_over_a_decision_is_given_up_before_the_watchdog_ends_us(at, monkeypatch):
    given_up = []
    monkeypatch.setattr(DecidingHere, "give_up", lambda _: given_up.append(at.reactor.seconds()))
    at.seconds(60)  # it answers all the time
    at.reactor.pass_time(54)
    assert not given_up
    with monkeypatch.context() as patch:
        patch.setattr(type(at.intake._deciding_thread.busy), "waits_for_others", True)
        at.reactor.pass_time(600)
        assert not given_up
    at.reactor.pass_time(0.1)
    assert given_up
    given_up.clear()
    at.pool.run()
    begun_at = at.reactor.seconds()
    at.reactor.pass_time(60)
    assert 55 < given_up[0] - begun_at < STUCK_MAX_S


def test_inbox_that_is_stuck_shows_though_the_database_waits_for_others(at, monkeypatch):
    monkeypatch.setattr(
        type(at.intake._thread.busy), "waits_for_others", property(lambda busy: busy is at.intake._thread.busy)
    )
    assert at.intake.store_watch.waits_for_others
    at.intake.messages(SmscByHand(), (mo(1),))
    at.reactor.pass_time(59)
    assert at.intake.store_watch.waits_for_others  # a slow sync is not yet a reason to end this process
    at.reactor.pass_time(2)
    assert not at.intake.store_watch.waits_for_others


def test_marked_requests_that_cannot_be_decided_show_until_they_can(at, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(at.mine, "settle_again", lambda _: 1 / 0)
        at.poll()
        assert at.intake.store_watch.error == "division by zero"
        at.intake.messages(SmscByHand(), (mo(1),))
        at.run()
        assert at.intake.store_watch.error == "division by zero"
    at.poll()
    assert at.intake.store_watch.error is None


def test_settled_messages_that_cannot_be_removed_show_until_they_can(at, monkeypatch):
    with monkeypatch.context() as patch:
        error = StoreUnavailable("Operation not permitted")
        patch.setattr(at.inbox, "forget", lambda _: (_ for _ in ()).throw(error))
        at.intake.messages(SmscByHand(), (mo(1),))
        at.run()
        at.seconds(2)
        at.intake.messages(SmscByHand(), (mo(2),))
        at.run()
        assert at.intake.store_watch.error == "Operation not permitted"
    at.seconds(2)
    assert at.intake.store_watch.error is None
    assert not in_inbox(at)
