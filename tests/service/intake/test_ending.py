"""What an intake finishes before it closes its store, and what it leaves in its inbox."""

from __future__ import annotations

import pytest
from twisted.logger import LogLevel

from kmp_smsd.service import settler
from kmp_smsd.service.intake import WATCH_EVERY_S
from kmp_smsd.storage import StoreUnavailable
from kmp_smsd.storage.inbox import Inbox
from tests.service.by_hand import MDN, SmscByHand, finished, link, mo
from tests.service.intake.stage import OK, OTHER, TEMPORARY, in_inbox
from tests.storage.stock import bound, counted, import_keys, register


def test_finishing_settles_what_is_in_hand_and_closes_the_store(at):
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1),))
    at.intake.messages(smsc, (mo(2),))
    ended = []
    finished(at.intake.finish(), at.pool).addCallback(ended.append)
    assert ended == [None]
    assert smsc.statuses() == [(1, OK), (2, OK)]
    assert at.pool.stopped
    assert counted(at.store) == {"not_registered": 2}
    with pytest.raises(Exception, match="closed"):
        at.mine.journal.tallies()
    assert in_inbox(at) == []
    Inbox(at.store._database.path, at.store.settled).close()  # nobody has it open
    assert not at.reactor.getDelayedCalls()


def test_what_fails_at_the_end_keeps_nothing_else_open(at, monkeypatch):
    async def fail():
        raise ValueError("settling or replies")

    def fail_too(_settled):
        raise ValueError("inbox")

    monkeypatch.setattr(at.intake.settler, "settle_all", fail)
    monkeypatch.setattr(at.intake._replier, "finish", fail)
    monkeypatch.setattr(at.inbox, "forget", fail_too)
    failed = []
    finished(at.intake.finish(), at.pool).addErrback(lambda failure: failed.append(failure.getErrorMessage()))
    assert failed == ["inbox"]
    assert at.pool.stopped
    assert not at.reactor.getDelayedCalls()
    with pytest.raises(Exception, match="closed"):
        at.mine.journal.tallies()
    Inbox(at.store._database.path, at.store.settled).close()  # nobody has it open


def test_finishing_does_not_wait_for_messages_that_found_no_room(start, monkeypatch):
    monkeypatch.setattr(settler, "BACKLOG_MAX", 1)
    at = start(north=link(answer_within_s=2.0))
    at.store_fails[:] = [StoreUnavailable("disk full")] * 99
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1),))
    at.intake.messages(smsc, (mo(2),))
    at.pool.run()
    ended = []
    finished(at.intake.finish(), at.pool).addCallback(ended.append)
    assert ended == []
    at.seconds(4)
    assert (smsc.statuses(), ended) == ([(1, OK), (2, TEMPORARY)], [None])


def test_finishing_tries_once_more_what_could_not_be_settled(at):
    at.store_fails[:] = [StoreUnavailable("disk full")]
    at.intake.messages(SmscByHand(), (mo(1),))
    at.run()
    ended = []
    finished(at.intake.finish(), at.pool).addCallback(ended.append)
    assert ended == [None]
    assert counted(at.store) == {"not_registered": 1}


def test_what_cannot_be_settled_at_the_end_stays_in_the_inbox(at, events):
    at.store_fails[:] = [StoreUnavailable("disk full")] * 9
    at.intake.messages(SmscByHand(), (mo(1), mo(2)))
    at.pool.run()
    ended = []
    finished(at.intake.finish(), at.pool).addCallback(ended.append)
    assert ended == [None]
    assert len(in_inbox(at)) == 2
    assert [event["count"] for event in events if event.get("event") == "inbox_unsettled"] == [2]


def test_finishing_waits_for_the_batch_under_way(at):
    at.intake.messages(SmscByHand(), (mo(1),))
    ended = []
    finished(at.intake.finish()).addCallback(ended.append)
    at.reactor.pass_time(1)
    assert ended == []
    assert at.mine.journal.tallies() == []  # the store is still open
    at.run()
    assert ended == [None]


def test_idle_intake_finishes_at_once(at):
    ended = []
    finished(at.intake.finish(), at.pool).addCallback(ended.append)
    assert ended == [None]


def test_look_under_way_ends_before_the_store_is_closed(at, events):
    at.store.holds.approve(at.hold(), "somebody")
    at.reactor.advance(WATCH_EVERY_S)
    ended = []
    finished(at.intake.finish(), at.pool).addCallback(ended.append)
    assert ended == [None]
    assert bound(at.store) == {(OTHER, "meter"): "KEY-1"}
    assert [event for event in events if event["log_level"] >= LogLevel.warn] == []


def test_nothing_is_settled_after_the_inbox_was_closed(at):
    import_keys(at.store, "KEY-1")
    at.intake.messages(SmscByHand(), (mo(1),))
    at.run()
    register(at.store, MDN, "meter")  # marks it
    at.store_fails.append(StoreUnavailable("the disk is full"))
    at.intake.messages(SmscByHand(), (mo(2, source_addr=OTHER),))
    at.receive_one()
    at.intake.settler.look()
    finished(at.intake.finish())
    at.pool.run_one()  # the batch fails, and the stop goes on
    at.reactor.pass_time(settler.RETRY_EVERY_S + 0.1)  # so long the marked one takes
    at.pool.run()
    assert counted(at.store) == {"bound": 1, "not_registered": 1}
    assert at.settled == [1, 1]
