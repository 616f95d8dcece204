"""Approved holds and what waited for a registration are decided soon, whatever else goes on."""

from __future__ import annotations

import pytest
from twisted.logger import LogLevel

from kmp_smsd.service import intake
from kmp_smsd.service.intake import WATCH_EVERY_S
from kmp_smsd.storage import StoreUnavailable, settling, waiting
from kmp_smsd.storage.again import read_again
from kmp_smsd.storage.requests import Renumber, Request
from tests.service.by_hand import MDN, SmscByHand, alarms, mo
from tests.service.intake.stage import OTHER, At
from tests.storage.stock import NOW, bound, import_keys, open_holds, register


def test_approved_hold_is_decided_within_one_poll(at):
    hold = at.hold()
    at.poll()
    assert bound(at.store) == {(MDN, "meter"): "KEY-1"}
    at.store.holds.approve(hold, "somebody")
    at.poll()
    assert bound(at.store) == {(OTHER, "meter"): "KEY-1"}
    assert open_holds(at.store) == []
    batches = len(at.batches)
    at.reactor.pass_time(1)
    at.run()
    assert len(at.batches) == batches


def test_wish_written_while_nobody_looked_is_found_at_the_start(start):
    first = start()
    first.store.holds.approve(first.hold(), "somebody")
    first.inbox.close()
    second = At(first.mine._database.path, pytest.MonkeyPatch())
    assert bound(second.store) == {(OTHER, "meter"): "KEY-1"}
    second.inbox.close()
    second.store.close()
    second.mine.close()


def test_wishes_are_decided_under_continuous_load(at):
    hold = at.hold()
    smsc = SmscByHand()
    at.store.holds.approve(hold, "somebody")
    for number in range(5):
        at.intake.messages(smsc, (mo(number),))
        at.intake.messages(smsc, (mo(number + 100),))
        if number == 0:
            at.reactor.advance(WATCH_EVERY_S)
        at.pool.run_one()
    assert at.pool.jobs
    assert bound(at.store) == {(OTHER, "meter"): "KEY-1"}


@pytest.mark.parametrize("error", [StoreUnavailable("locked"), RuntimeError("a fault of ours")])
def test_wishes_are_decided_though_the_store_fails_once(at, monkeypatch, events, error):
    at.store.holds.approve(at.hold(), "somebody")
    with monkeypatch.context() as patch:
        patch.setattr(at.mine, "settle_again", lambda _: (_ for _ in ()).throw(error))
        at.poll()
    assert bound(at.store) == {(MDN, "meter"): "KEY-1"}
    at.poll()
    assert bound(at.store) == {(OTHER, "meter"): "KEY-1"}
    assert len([event for event in events if event["log_level"] >= LogLevel.error]) == 1


@pytest.mark.parametrize("error", [StoreUnavailable("locked"), RuntimeError("a fault of ours")])
def test_why_wishes_are_not_decided_is_said_and_not_at_every_look(at, monkeypatch, events, error):
    monkeypatch.setattr(at.mine, "settle_again", lambda _: (_ for _ in ()).throw(error))
    for _ in range(150):  # 15 seconds
        at.poll()
    assert len([event for event in events if event["log_level"] >= LogLevel.error]) == 2


def test_looking_goes_on_after_a_fault_of_ours(at, monkeypatch, events):
    at.store.holds.approve(at.hold(), "somebody")
    with monkeypatch.context() as patch:
        patch.setattr(intake, "leave", lambda *_: 1 / 0)
        at.reactor.advance(WATCH_EVERY_S)
    assert len(alarms(events)) == 1
    at.poll()
    assert bound(at.store) == {(OTHER, "meter"): "KEY-1"}


def test_all_that_waited_for_a_registration_is_decided_within_one_poll(at, monkeypatch):
    monkeypatch.setattr(
        settling, "read_again", lambda database, now, limit, *more: read_again(database, now, min(limit, 2), *more)
    )
    keys = [f"KEY-{number}" for number in range(7)]
    import_keys(at.store, *keys)
    at.intake.messages(SmscByHand(), tuple(mo(number, f"K1:{key}:app-{key}") for number, key in enumerate(keys)))
    at.run()
    register(at.store, MDN, *(f"app-{key}" for key in keys))
    at.poll()
    assert bound(at.store) == {(MDN, f"app-{key}"): key for key in keys}
    assert WATCH_EVERY_S < 0.2


def test_all_that_waits_is_looked_through_within_one_poll(at, monkeypatch):
    monkeypatch.setattr(waiting, "STEP_ROWS", 1)
    register(at.store, MDN, "meter")
    at.intake.messages(SmscByHand(), tuple(mo(number, f"K1:KEY-{number}") for number in range(7)))
    at.run()
    import_keys(at.store, "KEY-6")
    at.poll()
    assert bound(at.store) == {(MDN, "meter"): "KEY-6"}


def test_what_waited_at_a_number_that_became_another_is_decided_within_one_poll(at):
    import_keys(at.store, "KEY-1")
    register(at.store, OTHER, "meter")
    at.intake.messages(SmscByHand(), (mo(1, "K1:KEY-1"),))
    at.run()
    at.store.requests.apply([Request("1", b"", Renumber(OTHER, MDN))], NOW)
    at.poll()
    assert bound(at.store) == {(MDN, "meter"): "KEY-1"}


def test_store_is_not_asked_again_before_it_has_answered(at):
    for _ in range(10):
        at.reactor.advance(WATCH_EVERY_S)
    assert len(at.pool.jobs) == 1


def test_nobody_is_kept_from_writing_while_nothing_is_marked(at, monkeypatch):
    at.poll()
    monkeypatch.setattr(at.mine._database, "transaction", lambda: pytest.fail("nobody has marked anything"))
    at.poll()
