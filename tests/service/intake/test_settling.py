"""What was answered is settled, all of it and once, though settling fails or we are killed."""

from __future__ import annotations

import logging
import os

import pytest

from kmp_smsd.service import settler
from kmp_smsd.service.intake import WATCH_EVERY_S
from kmp_smsd.storage import StoreUnavailable
from kmp_smsd.storage.received import Place
from tests.service.by_hand import MDN, SmscByHand, alarms, link, mo
from tests.service.intake.stage import NOW_S, OK, TEMPORARY, At, LinkByHand, in_inbox, lines_of
from tests.storage.stock import NOW, counted, import_keys, register


def test_messages_are_settled_at_the_next_look(at):
    at.intake.messages(SmscByHand(), (mo(1),))
    at.pool.run()
    assert (counted(at.store), at.intake.settler.backlog) == ({}, 1)
    at.reactor.advance(WATCH_EVERY_S)
    at.pool.run()
    assert (counted(at.store), at.intake.settler.backlog) == ({"not_registered": 1}, 0)


def test_many_messages_are_settled_at_once(at, monkeypatch):
    monkeypatch.setattr(settler, "SETTLE_MAX", 3)
    at.intake.messages(SmscByHand(), (mo(1), mo(2), mo(3)))
    at.pool.run()
    at.intake.messages(SmscByHand(), (mo(4), mo(5)))
    at.pool.run()
    assert (at.settled, at.intake.settler.backlog) == ([3], 2)  # these wait for others


def test_messages_of_several_batches_share_a_transaction(at, monkeypatch):
    monkeypatch.setattr(settler, "SETTLE_MAX", 5)
    for number in range(4):
        at.intake.messages(SmscByHand(), (mo(number), mo(number + 10)))
        at.pool.run()
    at.run()
    assert at.settled == [4, 4]


def test_numbers_with_a_gap_between_them_share_no_transaction(at, monkeypatch):
    """The store counts back from the last one where it settles by halves."""
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1), mo(2)))
    at.pool.run()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        at.intake.messages(smsc, (mo(3),))
        at.pool.run()
    at.intake.messages(smsc, (mo(4),))
    at.pool.run()
    at.run()
    at.run()
    assert at.settled == [2, 1]
    assert smsc.statuses() == [(1, OK), (2, OK), (3, TEMPORARY), (4, OK)]


def test_nothing_is_settled_twice_or_left_out_though_settling_fails(at):
    at.intake.messages(SmscByHand(), (mo(1), mo(2, text="hello"), mo(3, text="K1:KEY-2")))
    at.store_fails[:] = [StoreUnavailable("disk full"), StoreUnavailable("disk full")]
    at.run()
    at.reactor.pass_time(5)
    at.run()
    assert at.settled == [3, 3]
    at.reactor.pass_time(5)
    at.run()
    assert counted(at.store) == {"not_registered": 2, "malformed": 1}
    assert at.intake.settler.backlog == 0


def test_fewer_are_tried_at_once_after_each_failure_and_more_after_each_success(at, monkeypatch):
    """One line may be at fault for all."""
    monkeypatch.setattr(settler, "SETTLE_MAX", 4)
    for number in range(1, 5):
        at.intake.messages(SmscByHand(), (mo(number),))
        at.receive_one()
    at.store_fails[:] = [StoreUnavailable("it kills who tries it")] * 3
    at.run()
    for _ in range(6):
        at.reactor.pass_time(1.1)
        at.run()
    assert at.settled == [4, 2, 1, 1, 2, 1]
    assert counted(at.store) == {"not_registered": 4}


def test_what_was_settled_before_an_error_is_not_settled_again(at):
    """The commit stands, and the error comes after it; or one half of a batch stands, and not the other."""
    at.intake.messages(SmscByHand(), (mo(1), mo(2, text="hello"), mo(3, text="K1:KEY-2")))
    at.pool.run()
    (run,) = {received.run for received in lines_of(at)}
    at.store.settle(in_inbox(at)[:2], NOW, Place(run, 2))
    at.store_fails[:] = [StoreUnavailable("the line to the disk is gone")]
    at.run()
    at.reactor.pass_time(2)
    at.run()
    assert at.settled == [3, 3]
    assert counted(at.store) == {"not_registered": 2, "malformed": 1}


def test_what_became_of_each_message_is_said_to_who_asks_and_names_nobody(at, caplog, events):
    caplog.set_level(logging.DEBUG, settler.__name__)
    at.intake.messages(SmscByHand(), (mo(1, source_addr="bank"), mo(2), mo(3, text="hello")))
    at.run()
    assert [(event["outcome"], event["mdn"]) for event in events if event.get("event") == "message_settled"] == [
        ("invalid_mdn", "no legal number"),
        ("not_registered", "86139*****678"),
        ("malformed", "86139*****678"),
    ]
    assert at.intake.settler.backlog == 0


def test_messages_are_received_while_settling_fails_and_the_role_is_not_ready(start, monkeypatch, events):
    monkeypatch.setattr(settler, "BACKLOG_MAX", 3)
    at = start(north=link(answer_within_s=2.0, failures_before_unbind=1))
    at.intake.attach(north := LinkByHand("north"))
    smsc = SmscByHand()
    at.store_fails[:] = [StoreUnavailable("disk full")] * 4
    for number in range(1, 5):
        at.intake.messages(smsc, (mo(number),))
        at.run()
    assert smsc.statuses() == [(1, OK), (2, OK), (3, OK)]
    assert (at.intake.store_watch.error, north.backed_off) == ("disk full", 0)
    at.intake.store_watch.measure()  # the database can be written to for all that
    at.reactor.pass_time(2.1)
    at.pool.run()
    assert smsc.statuses() == [(1, OK), (2, OK), (3, OK), (4, TEMPORARY)]
    assert (at.intake.store_watch.error, north.backed_off) == ("disk full", 1)
    for _ in range(5):
        at.reactor.pass_time(1.1)
        at.run()
    at.intake.messages(smsc, (mo(5),))
    at.run()
    assert smsc.statuses()[4:] == [(5, OK)]
    assert at.intake.store_watch.error is None
    assert counted(at.store) == {"not_registered": 4}
    assert not alarms(events)


def test_fault_of_ours_in_settling_is_an_alarm_and_it_is_tried_again(at, events):
    at.store_fails[:] = [RuntimeError("a fault of ours")]
    at.intake.messages(SmscByHand(), (mo(1),))
    at.run()
    assert alarms(events) == ["a batch could not be settled"]
    at.reactor.pass_time(1.1)
    at.run()
    assert counted(at.store) == {"not_registered": 1}


def test_no_more_is_received_than_can_be_settled_soon(start, monkeypatch):
    monkeypatch.setattr(settler, "BACKLOG_MAX", 3)
    at = start(sync={"batch_max": 2}, north=link(answer_within_s=2.0))
    smsc = SmscByHand()
    with at.store._database.transaction():
        for number in range(3):
            at.intake.messages(smsc, (mo(number), mo(number + 10)))
        at.receive_one()
        at.receive_one()
        assert smsc.statuses() == [(0, OK), (10, OK), (1, OK), (11, OK)]
        assert at.inbox.append not in at.pool.waiting()
    at.run()
    assert smsc.statuses()[4:] == [(2, OK), (12, OK)]
    at.run()
    with at.store._database.transaction():
        for number in range(3):
            at.intake.messages(smsc, (mo(number), mo(number + 10)))
        at.receive_one()
        at.receive_one()
        at.reactor.pass_time(2.1)
    assert smsc.statuses()[-2:] == [(2, TEMPORARY), (12, TEMPORARY)]


def test_what_was_answered_before_a_crash_is_settled_after_it(start, events):
    first = start()
    first.intake.messages(SmscByHand(), (mo(1), mo(2)))
    first.pool.run()
    assert counted(first.store) == {}
    first.inbox.close()
    second = At(first.mine._database.path, pytest.MonkeyPatch())
    second.run()
    assert counted(second.store) == {"not_registered": 2}
    assert any("settled now: 2" in event["log_format"].format(**event) for event in events)
    second.inbox.close()
    third = At(first.mine._database.path, pytest.MonkeyPatch())
    third.run()
    assert third.settled == []
    for at in (second, third):
        at.inbox.close()
        at.store.close()
        at.mine.close()


def test_what_is_settled_goes_from_the_inbox(at):
    at.intake.messages(SmscByHand(), (mo(1),))
    at.pool.run()
    assert len(in_inbox(at)) == 1
    at.reactor.pass_time(0.2)
    at.pool.run()
    at.reactor.pass_time(1.1)
    at.pool.run()
    assert in_inbox(at) == []


def test_no_message_is_settled_before_it_came(at):
    """The clock was set back between its answer and its settling, as on a machine that lost power."""
    register(at.store, MDN, "meter")
    import_keys(at.store, "KEY-1")
    at.intake.messages(SmscByHand(), (mo(1),))
    at.receive_one()
    at.intake.settler._wall = lambda: NOW_S - 30 * 86_400
    at.run()
    (entry,) = at.store.journal.listing(limit=2)
    assert entry["at"] == int(NOW_S * 1000)
