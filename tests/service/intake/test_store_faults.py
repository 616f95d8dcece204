"""A store or a disk that is slow, stuck or fails: what stays with the SMSC, and when a link backs off."""

from __future__ import annotations

import os

from kmp_smsd.service import settler
from kmp_smsd.storage import StoreUnavailable
from tests.service.by_hand import MDN, SmscByHand, alarms, link, mo
from tests.service.intake.stage import OK, TEMPORARY, LinkByHand
from tests.storage.stock import counted, import_keys, journalled, register

# A store that is slow


def test_messages_that_the_store_does_not_take_in_time_are_left_with_the_smsc_once(start):
    at = start(north=link(answer_within_s=2.0))
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1),))
    at.reactor.pass_time(1)
    at.intake.messages(smsc, (mo(2),))  # waits behind the first
    at.reactor.pass_time(0.9)
    assert smsc.statuses() == []
    at.reactor.pass_time(0.2)
    assert smsc.statuses() == [(1, TEMPORARY)]
    at.reactor.pass_time(1)
    assert smsc.statuses() == [(1, TEMPORARY), (2, TEMPORARY)]
    at.reactor.pass_time(10)
    at.run()
    assert smsc.statuses() == [(1, TEMPORARY), (2, TEMPORARY)]
    assert counted(at.store) == {"not_registered": 1}  # the late commit is harmless: 2 was never given to the store


def test_repeat_of_a_message_that_was_committed_late_is_answered(at):
    import_keys(at.store, "KEY-1")
    register(at.store, MDN, "meter")
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1),))
    at.reactor.pass_time(3)
    at.run()
    at.intake.messages(smsc, (mo(2),))
    at.run()
    assert smsc.statuses() == [(1, TEMPORARY), (2, OK)]
    assert [outcome for _, outcome in journalled(at.store)] == ["bound", "already_bound"]


def test_each_link_has_its_own_patience_and_status(start):
    at = start(north=link(answer_within_s=1.0, temporary_status=0x58), south=link(answer_within_s=3.0))
    north, south = SmscByHand("north"), SmscByHand("south")
    for smsc in (north, south, north, south):
        at.intake.messages(smsc, (mo(1),))
    at.reactor.pass_time(1.1)
    assert (north.statuses(), south.statuses()) == ([(1, 0x58)] * 2, [])
    at.reactor.pass_time(2)
    assert (north.statuses(), south.statuses()) == ([(1, 0x58)] * 2, [(1, TEMPORARY)] * 2)


def test_link_backs_off_after_several_failures_in_a_row(start):
    at = start(north=link(failures_before_unbind=3), south=link(failures_before_unbind=3))
    north, south = LinkByHand("north"), LinkByHand("south")
    at.intake.attach(north)
    at.intake.attach(south)
    smsc = SmscByHand()

    def fail(*numbers):
        at.inbox_fails[:] = [StoreUnavailable("disk full")]
        at.intake.messages(smsc, tuple(mo(number) for number in numbers))
        at.run()

    fail(1, 2)  # one failure, however many messages it meets
    fail(3)
    at.intake.messages(smsc, (mo(4),))
    at.run()  # one success: it begins anew
    fail(5, 6)
    fail(7)
    assert north.backed_off == 0
    fail(8)
    assert north.backed_off == 1
    fail(9)
    fail(10)
    assert north.backed_off == 1  # the count begins anew as well
    fail(11)
    assert (north.backed_off, south.backed_off) == (2, 0)


def stall(at, seconds):
    """Let the disk be stuck for so long, while messages come ten times a second."""
    for number in range(round(seconds * 10)):
        at.intake.messages(SmscByHand(), (mo(number),))
        at.reactor.pass_time(0.1)
    at.run()


def test_stall_of_a_moment_is_one_failure_however_many_messages_come_meanwhile(start):
    at = start(north=link(failures_before_unbind=2, answer_within_s=2.0))
    at.intake.attach(north := LinkByHand("north"))
    for _ in range(3):
        stall(at, 3.9)
        at.intake.messages(SmscByHand(), (mo(),))
        at.run()
    assert north.backed_off == 0


def test_link_backs_off_while_the_disk_stays_stuck(start):
    at = start(north=link(failures_before_unbind=3, answer_within_s=2.0))
    at.intake.attach(north := LinkByHand("north"))
    stall(at, 6.9)
    assert north.backed_off == 1


def test_late_commit_does_not_count_as_a_success(start):
    at = start(north=link(failures_before_unbind=2, answer_within_s=1.0))
    at.intake.attach(north := LinkByHand("north"))
    for _ in range(2):
        at.intake.messages(SmscByHand(), (mo(),))
        at.reactor.pass_time(1.1)
        at.run()
    assert north.backed_off == 1


def test_database_that_is_busy_for_too_long_is_told_of(start, monkeypatch):
    monkeypatch.setattr(settler, "BACKLOG_MAX", 1)
    at = start(north=link(answer_within_s=2.0))
    at.intake.messages(SmscByHand(), (mo(1),))
    at.intake.messages(SmscByHand(), (mo(2),))
    at.receive_one()
    at.reactor.pass_time(2.1)  # its thread does not come back
    assert at.intake.store_watch.error == "1 messages wait to be settled, and others were left with their SMSC"
    at.pool.run()
    assert at.intake.store_watch.error is None


def test_disk_that_is_stuck_is_given_no_more_to_do(at):
    at.seconds(1)
    at.intake.messages(SmscByHand(), (mo(1),))
    at.reactor.pass_time(100)
    assert at.pool.waiting().count(at.inbox.append) == 1
    assert len(at.pool.jobs) < 10


# A store that fails


def test_whole_batch_is_left_with_the_smsc_while_the_store_is_unavailable(at, events):
    at.inbox_fails[:] = [StoreUnavailable("database or disk is full")]
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1), mo(2, text="hello")))
    at.intake.messages(smsc, (mo(3),))
    at.run()
    assert smsc.statuses() == [(1, TEMPORARY), (2, TEMPORARY), (3, OK)]
    assert counted(at.store) == {"not_registered": 1}
    assert not alarms(events)
    assert any("disk is full" in str(event.get("reason")) for event in events)


def test_store_that_leaves_messages_with_the_smsc_is_not_ready_until_it_writes_again(at):
    at.inbox_fails[:] = [StoreUnavailable("database or disk is full")]
    at.intake.messages(SmscByHand(), (mo(1),))
    at.run()
    assert at.intake.store_watch.error == "database or disk is full"
    at.intake.messages(SmscByHand(), (mo(2),))
    at.reactor.pass_time(3)
    assert at.intake.store_watch.error == "it is slow, and messages were left with their SMSC"
    at.run()
    assert at.intake.store_watch.error is None


def test_fault_of_ours_in_receiving_is_an_alarm_and_the_next_batch_works(at, events):
    at.inbox_fails[:] = [RuntimeError("a fault of ours")]
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1),))
    at.intake.messages(smsc, (mo(2),))
    at.run()
    assert smsc.statuses() == [(1, TEMPORARY), (2, OK)]
    assert alarms(events) == ["a batch could not be received"]


def test_batch_that_fails_after_it_was_answered_is_not_answered_again(at):
    at.inbox_fails[:] = [StoreUnavailable("stalled")]
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1),))
    at.reactor.pass_time(3)
    at.run()
    assert smsc.statuses() == [(1, TEMPORARY)]


def test_disk_that_takes_no_messages_is_noticed_before_one_comes_and_when_it_is_mended(at, monkeypatch, events):
    at.seconds(1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        at.seconds(11)
        assert "No space left on device: make room on its volume" in at.intake.store_watch.error
        at.seconds(30)
        at.run()  # something else is settled meanwhile, or the database probed
        assert "No space left on device" in at.intake.store_watch.error
    assert len([event for event in events if event.get("event") == "store_unavailable"]) == 4
    at.seconds(11)
    assert at.intake.store_watch.error is None
    assert counted(at.store) == {}


def test_inbox_is_not_probed_while_messages_come(at):
    at.seconds(1)
    probes = at.probes
    for number in range(30):
        at.intake.messages(SmscByHand(), (mo(number),))
        at.seconds(1)
    assert at.probes == probes
    at.seconds(11)
    assert at.probes == probes + 1
