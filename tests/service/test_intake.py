from __future__ import annotations

import functools
import logging
import os

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from kmp_smsd.config.models import Storage
from kmp_smsd.config.sync import Sync
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import OnConflict, SyncPolicy
from kmp_smsd.service import intake, settler, thread
from kmp_smsd.service.deciding import DecidingHere
from kmp_smsd.service.health import STUCK_MAX_S
from kmp_smsd.service.intake import WATCH_EVERY_S, Intake, Load
from kmp_smsd.service.link import SmscLink
from kmp_smsd.simulator.deliver import deliver_sm_body, with_header
from kmp_smsd.smpp.constants import RESPONSE, CommandId
from kmp_smsd.storage import StoreUnavailable, open_store, settling, waiting
from kmp_smsd.storage.again import read_again
from kmp_smsd.storage.inbox import Inbox
from kmp_smsd.storage.inbox_files import directory, read_file
from kmp_smsd.storage.received import Place
from kmp_smsd.storage.requests import Renumber, Request
from tests.service.by_hand import MDN, PLAN, ReactorByHand, SmscByHand, Threads, alarms, finished, headers, link, mo
from tests.storage.fresh import new_database
from tests.storage.stock import NOW, bound, counted, import_keys, journalled, open_holds, register

OK, TEMPORARY, NEVER = 0, 0x64, 0x66
OTHER = "8613900000002"
NOW_S = 1_732_380_000.0


def lines_of(at):
    """What is in the files of the inbox."""
    files = sorted(directory(at.mine._database.path).iterdir())
    return [received for file in files for received in read_file(file).received]


def in_inbox(at):
    """Every message in the files of the inbox."""
    return [message for received in lines_of(at) for message in received.messages]


class At:
    """An intake with a real store, whose thread and clock the test moves. `store` is what others see of it."""

    def __init__(self, path, patch, *, sync=None, **links):
        self.pool = Threads()
        patch.setattr(thread, "OneThread", self.pool.one)
        self.reactor = ReactorByHand()
        self.store = open_store(path)
        self.mine = open_store(path)
        self.inbox = Inbox(path, lambda: self.mine.settled())
        self.intake = Intake(
            self.mine,
            self.inbox,
            DecidingHere(self.mine),
            Sync(**{"mdn_burst": 10_000, **(sync or {})}),
            PLAN,
            links or {"north": link()},
            self.reactor,
            storage=Storage(journal_days=0, tallies_days=0, ended_bindings_days=0),
            policy=SyncPolicy(),
            monotonic=self.reactor.seconds,
            wall=lambda: NOW_S + self.reactor.seconds(),
        )
        self.batches = []  # that came into the inbox
        self.inbox_fails, self.store_fails = [], []  # what the next batches raise
        self.probes = 0
        self._settled = []
        self.mine.settle = self._watched(self.mine.settle, self.store_fails, self._settled)
        self.inbox.append = self._watched(self.inbox.append, self.inbox_fails, self.batches)
        self.intake.startService()
        self.pool.run()

    def _watched(self, real, fails, batches):
        @functools.wraps(real)
        def call(messages, *more):
            if messages:
                batches.append(list(messages))
                if fails:
                    raise fails.pop(0)
            else:
                self.probes += 1
            return real(messages, *more)

        return call

    @property
    def settled(self):
        """How many messages each transaction settled."""
        return [len(batch) for batch in self._settled]

    def seconds(self, count):
        """Let so much time pass, and the threads work meanwhile."""
        for _ in range(count):
            self.reactor.pass_time(1)
            self.pool.run()

    def receive_one(self):
        """Let the inbox's thread do one batch, and nothing else."""
        self.pool.run_one(self.inbox.append)

    def run(self):
        """Let the threads do what they have to, and settle what came."""
        self.pool.run()
        self.intake.settler.look()
        self.pool.run()

    def poll(self):
        """Let it see what people wish, and do it."""
        self.reactor.advance(WATCH_EVERY_S)
        self.run()

    def hold(self):
        """The number of a new hold: the key of MDN reports from another SIM."""
        import_keys(self.store, "KEY-1")
        register(self.store, MDN, "meter")
        register(self.store, OTHER, "meter")
        smsc = SmscByHand()
        self.intake.messages(smsc, (mo(1), mo(2, source_addr=OTHER)))
        self.run()
        (hold,) = open_holds(self.store)
        return hold["hold"]


@pytest.fixture
def start(tmp_path, monkeypatch):
    opened = []

    def started(**options):
        path = tmp_path / "kmp.db"
        new_database(path)
        opened.append(At(path, monkeypatch, **options))
        return opened[-1]

    yield started
    for at in opened:
        at.inbox.close()
        at.store.close()
        at.mine.close()


@pytest.fixture
def at(start):
    return start()


# Answers, and what they promise


def test_nothing_is_answered_before_it_is_on_the_disk(at):
    smsc = SmscByHand()
    import_keys(at.store, "KEY-1")
    register(at.store, MDN, "meter")
    at.intake.messages(smsc, (mo(),))
    at.reactor.advance(0.05)
    assert smsc.writes == []
    seen = []
    smsc.answer = lambda pairs: seen.append(([one.mdn for one in in_inbox(at)], [status for _, status in pairs]))
    at.run()
    assert seen == [([MDN], [OK])]
    assert bound(at.store) == {(MDN, "meter"): "KEY-1"}


def test_messages_are_answered_though_somebody_else_writes_to_the_database(at):
    smsc = SmscByHand()
    with at.store._database.transaction():
        at.intake.messages(smsc, (mo(1), mo(2, text="hello")))
        at.receive_one()
        assert smsc.statuses() == [(1, OK), (2, NEVER)]
    at.run()
    assert counted(at.store) == {"not_registered": 1, "malformed": 1}


@pytest.mark.parametrize(
    ("message", "outcome", "status"),
    [
        (mo(esm_class=4), Outcome.RECEIPT, OK),
        (mo(destination_addr="1"), Outcome.NOT_FOR_US, NEVER),
        (mo(source_addr="bank"), Outcome.INVALID_MDN, NEVER),
        (mo(text="hello"), Outcome.MALFORMED, NEVER),
        (mo(source_addr=OTHER), Outcome.NOT_REGISTERED, OK),
        (mo(text="K1:UNKNOWN"), Outcome.UNKNOWN_KEY, OK),
        (mo(text="K1:KEY-1:alarm"), Outcome.APP_NOT_REGISTERED, OK),
        (mo(), Outcome.BOUND, OK),
    ],
)
def test_status_fits_the_outcome(start, message, outcome, status):
    at = start(sync={"short_codes": ("10690001",)}, north=link(), quiet=link(never_status=0))
    import_keys(at.store, "KEY-1")
    register(at.store, MDN, "meter")
    north, quiet = SmscByHand("north"), SmscByHand("quiet")
    at.intake.messages(north, (message,))
    at.run()
    assert counted(at.store) == {outcome: 1}
    at.intake.messages(quiet, (message,))
    at.run()
    assert (north.statuses(), quiet.statuses()) == ([(1, status)], [(1, OK)])


def test_message_whose_own_fault_it_is_never_comes_back(at, monkeypatch, events):
    """Reading chokes on one of three: the others are read, bound and answered as if it were not there."""
    reader = at.intake._admission.terms["north"].reader
    read = reader.read

    def choke(message, received_at):
        if message.sequence_number == 2:
            raise ValueError("a fault of ours")
        return read(message, received_at)

    monkeypatch.setattr(reader, "read", choke)
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1), mo(2), mo(3)))
    at.run()
    assert smsc.statuses() == [(1, OK), (2, NEVER), (3, OK)]
    assert counted(at.store) == {"not_registered": 2, "error": 1}
    assert len(alarms(events)) == 1
    assert "KEY-1" not in str(alarms(events))


def test_answers_for_one_connection_leave_in_one_write(at):
    one, two = SmscByHand(), SmscByHand()
    at.intake.messages(one, (mo(1),))
    at.intake.messages(one, (mo(2), mo(3)))
    at.intake.messages(two, (mo(4),))
    at.intake.messages(one, (mo(5),))
    at.receive_one()
    assert [len(write) for write in one.writes] == [1]
    at.receive_one()
    assert [len(write) for write in one.writes] == [1, 3]
    assert one.statuses() == [(1, OK), (2, OK), (3, OK), (5, OK)]
    assert two.statuses() == [(4, OK)]


def test_messages_of_one_batch_get_each_its_own_answer(at):
    one, two = SmscByHand(), SmscByHand()
    at.intake.messages(one, (mo(1),))
    for smsc, text in ((one, "hello"), (two, "K1:KEY-1"), (one, "K1:KEY-1"), (two, "hello")):
        at.intake.messages(smsc, (mo(2, text), mo(3)))
    at.run()
    assert [len(batch) for batch in at.batches] == [1, 8]
    assert one.statuses() == [(1, OK), (2, NEVER), (3, OK), (2, OK), (3, OK)]
    assert two.statuses() == [(2, OK), (3, OK), (2, NEVER), (3, OK)]


def test_request_knows_when_and_by_which_link_it_came(start):
    at = start(north=link(), south=link())
    at.reactor.advance(5)
    at.intake.messages(SmscByHand("south"), (mo(),))
    at.reactor.advance(1)
    at.run()
    (request,) = at.batches[0]
    assert (request.link, request.received_at) == ("south", int(NOW_S * 1000) + 5000)
    assert at.store.journal.listing(limit=1)[0]["at"] == int(NOW_S * 1000) + 6000  # when it was settled


# Group commit


def test_what_arrives_while_a_batch_is_committed_is_the_next_batch(at):
    smsc = SmscByHand()
    for number in range(1, 5):
        at.intake.messages(smsc, (mo(number),))
    at.receive_one()
    at.intake.messages(smsc, (mo(5),))
    at.run()
    assert [len(batch) for batch in at.batches] == [1, 3, 1]
    assert [number for number, _ in smsc.statuses()] == [1, 2, 3, 4, 5]


def test_batch_has_at_most_so_many_messages(start):
    at = start(sync={"batch_max": 3})
    smsc = SmscByHand()
    at.intake.messages(smsc, tuple(mo(number) for number in range(8)))
    at.intake.messages(smsc, (mo(8),))
    at.intake.messages(smsc, (mo(9), mo(10)))
    at.run()
    assert [len(batch) for batch in at.batches] == [3, 3, 3, 2]  # the third: two, and the one that fits
    assert sorted(smsc.statuses()) == [(number, OK) for number in range(11)]


def test_one_batch_at_a_time(at):
    for number in range(3):
        at.intake.messages(SmscByHand(), (mo(number),))
    assert at.pool.waiting().count(at.inbox.append) == 1


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


class LinkByHand:
    def __init__(self, name):
        self.name = name
        self.backed_off = 0

    def back_off(self):
        self.backed_off += 1


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


# Settling


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
    assert any("2 messages" in (event["log_format"].format(**event)) for event in events)
    second.inbox.close()
    third = At(first.mine._database.path, pytest.MonkeyPatch())
    third.run()
    assert third.settled == []
    for at in (second, third):
        at.inbox.close()
        at.store.close()
        at.mine.close()


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


def test_what_is_settled_goes_from_the_inbox(at):
    at.intake.messages(SmscByHand(), (mo(1),))
    at.pool.run()
    assert len(in_inbox(at)) == 1
    at.reactor.pass_time(0.2)
    at.pool.run()
    at.reactor.pass_time(1.1)
    at.pool.run()
    assert in_inbox(at) == []


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


# Limits


def test_more_than_may_be_in_work_is_left_with_the_smsc_at_once(start):
    at = start(north=link(in_flight_max=3), south=link(in_flight_max=3))
    north, south = SmscByHand("north"), SmscByHand("south")
    at.intake.messages(north, (mo(1), mo(2)))
    at.intake.messages(north, (mo(3), mo(4)))
    assert north.statuses() == [(4, TEMPORARY)]
    at.intake.messages(south, (mo(1),))
    assert south.statuses() == []
    at.run()
    assert north.statuses() == [(4, TEMPORARY), (1, OK), (2, OK), (3, OK)]
    at.intake.messages(north, (mo(5), mo(6), mo(7)))
    at.run()
    assert north.statuses()[4:] == [(5, OK), (6, OK), (7, OK)]


@pytest.mark.parametrize("ends", ["settled", "failed", "overdue", "overdue in the queue"])
def test_messages_are_no_longer_in_work_however_they_end(start, ends):
    at = start(north=link(in_flight_max=1, failures_before_unbind=100), south=link(answer_within_s=60))
    if ends == "overdue in the queue":
        at.intake.messages(SmscByHand("south"), (mo(1),))
    at.inbox_fails[:] = [StoreUnavailable("disk full")] if ends == "failed" else []
    at.intake.messages(SmscByHand(), (mo(2),))
    if ends.startswith("overdue"):
        at.reactor.pass_time(3)
    if ends != "overdue in the queue":
        at.run()
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(3),))
    at.run()
    assert smsc.statuses() == [(3, OK)]


def test_message_that_the_store_still_has_is_in_work_though_it_was_answered(start):
    """A stalled store must not be given ever more: its batch counts until it ends."""
    at = start(north=link(in_flight_max=1))
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1),))
    at.reactor.pass_time(3)
    at.intake.messages(smsc, (mo(2),))
    assert smsc.statuses() == [(1, TEMPORARY), (2, TEMPORARY)]


def test_rate_of_a_link(start):
    at = start(north=link(rate_per_s=2), south=link())
    north, south = SmscByHand("north"), SmscByHand("south")
    at.intake.messages(north, tuple(mo(number) for number in range(4)))
    at.intake.messages(south, tuple(mo(number) for number in range(4)))
    at.run()
    assert sorted(north.statuses()) == [(0, OK), (1, OK), (2, TEMPORARY), (3, TEMPORARY)]
    assert south.statuses() == [(number, OK) for number in range(4)]
    at.reactor.advance(0.5)
    at.intake.messages(north, (mo(5), mo(6)))
    at.run()
    assert sorted(north.statuses()[4:]) == [(5, OK), (6, TEMPORARY)]


def test_sender_who_comes_too_often_takes_nothing_from_the_rate_of_its_link(start):
    at = start(sync={"mdn_burst": 1, "mdn_per_minute": 6.0}, north=link(rate_per_s=3))
    smsc = SmscByHand("north")
    at.intake.messages(smsc, tuple(mo(number) for number in range(9)))
    others = ("8613900000005", "8613900000006", "8613900000007")
    at.intake.messages(smsc, tuple(mo(10 + number, source_addr=other) for number, other in enumerate(others)))
    at.run()
    assert [one for one in sorted(smsc.statuses()) if one[1] == OK] == [(0, OK), (10, OK), (11, OK)]


def test_rate_of_a_sender_over_all_links(start):
    at = start(sync={"mdn_burst": 2, "mdn_per_minute": 6.0}, north=link(), south=link())
    north, south = SmscByHand("north"), SmscByHand("south")
    at.intake.messages(north, (mo(1), mo(2, text="hello"), mo(3), mo(4, source_addr=OTHER)))
    at.intake.messages(south, (mo(5),))
    at.run()
    assert sorted(north.statuses()) == [(1, OK), (2, NEVER), (3, TEMPORARY), (4, OK)]
    assert south.statuses() == [(5, TEMPORARY)]
    at.reactor.pass_time(9.5)
    at.intake.messages(south, (mo(6),))
    at.reactor.pass_time(0.6)
    at.intake.messages(south, (mo(7), mo(8)))
    at.run()
    assert sorted(south.statuses()[1:]) == [(6, TEMPORARY), (7, OK), (8, TEMPORARY)]


def test_messages_refused_for_the_rate_are_no_failures_of_the_store(start):
    at = start(north=link(rate_per_s=1, failures_before_unbind=2))
    at.intake.attach(north := LinkByHand("north"))
    at.intake.messages(SmscByHand(), tuple(mo(number) for number in range(10)))
    assert north.backed_off == 0


# Wishes


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


# Ending


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


# With a real link


class Linked:
    """An intake, a real link and its connection in memory."""

    def __init__(self, at):
        self.at = at
        self.link = SmscLink(
            "north", link(), "", at.intake, at.reactor, monotonic=at.reactor.seconds, jitter=lambda: 1.0
        )
        at.intake.attach(self.link)
        self.link.startService()
        self.transport = StringTransport()
        self.transport.setTcpNoDelay = lambda _: None
        self.protocol = at.reactor.tcpClients[-1][2].buildProtocol(None)
        self.protocol.makeConnection(self.transport)
        self.say(CommandId.BIND_TRANSCEIVER | RESPONSE, 1, b"smsc\0")
        self.heard()

    def say(self, command_id, number, body=b""):
        self.protocol.dataReceived(with_header(command_id, number, body, 0))

    def heard(self):
        return headers(self.transport)


MO_BODY = deliver_sm_body(MDN, "K1:KEY-1")


def test_link_is_alive_while_the_store_hangs(at):
    linked = Linked(at)
    linked.say(CommandId.DELIVER_SM, 5, MO_BODY)
    at.reactor.pass_time(1)
    linked.say(CommandId.ENQUIRE_LINK, 6)
    assert linked.heard() == [(CommandId.ENQUIRE_LINK_RESP, 0, 6)]
    at.run()
    assert linked.heard() == [(CommandId.DELIVER_SM_RESP, OK, 5)]


def test_connection_that_is_gone_gets_nothing(at):
    linked = Linked(at)
    linked.say(CommandId.DELIVER_SM, 5, MO_BODY)
    linked.protocol.connectionLost(Failure(ConnectionDone()))
    at.reactor.pass_time(3)
    at.run()
    assert linked.heard() == []
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1),))
    at.run()
    assert smsc.statuses() == [(1, OK)]


def test_link_unbinds_when_the_store_keeps_failing(start):
    at = start(north=link(failures_before_unbind=1))
    linked = Linked(at)
    at.inbox_fails[:] = [StoreUnavailable("disk full")]
    for number in range(5, 10):
        linked.say(CommandId.DELIVER_SM, number, MO_BODY)
    at.reactor.pass_time(3)
    *answers, unbind = linked.heard()
    assert answers == [(CommandId.DELIVER_SM_RESP, TEMPORARY, number) for number in range(5, 10)]
    assert unbind == (CommandId.UNBIND, 0, 2)


# Reloads


def reconfigure(at, *, sync=None, policy=None, **links):
    options = Sync(**{"mdn_burst": 10_000, **(sync or {})})
    at.intake.reconfigure(options, PLAN, policy or SyncPolicy(), links or {"north": link()})


def test_options_of_reading_count_for_the_next_message(at):
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1),))
    reconfigure(at, sync={"short_codes": ("1",)})
    at.intake.messages(smsc, (mo(2),))
    at.run()
    assert smsc.statuses() == [(1, OK), (2, NEVER)]


def test_policy_counts_for_the_batch_that_begins_after_it(at):
    import_keys(at.store, "KEY-1")
    register(at.store, MDN, "meter")
    register(at.store, OTHER, "meter")
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1),))
    reconfigure(at, policy=SyncPolicy(on_sim_change=OnConflict.MOVED))
    at.intake.messages(smsc, (mo(2, source_addr=OTHER),))
    at.run()
    assert bound(at.store) == {(OTHER, "meter"): "KEY-1"}


def test_messages_in_hand_are_answered_under_the_terms_that_they_came_under(at):
    old, new = SmscByHand(), SmscByHand()
    at.intake.messages(old, (mo(1, text="hello"),))
    reconfigure(at, north=link(never_status=0, in_flight_max=1))
    at.intake.messages(new, (mo(2, text="hello"),))
    assert at.intake.load("north").in_flight == 1
    at.run()
    assert (old.statuses(), new.statuses()) == ([(1, NEVER)], [(2, 0)])
    assert at.intake.load("north").in_flight == 0


def test_link_whose_options_stayed_keeps_what_is_in_work_and_its_failures(start):
    options = link(failures_before_unbind=2, in_flight_max=1)
    at = start(north=options)
    at.intake.attach(north := LinkByHand("north"))
    at.inbox_fails[:] = [StoreUnavailable("disk full")]
    at.intake.messages(SmscByHand(), (mo(1),))
    at.run()
    at.inbox_fails[:] = [StoreUnavailable("disk full")]
    at.intake.messages(SmscByHand(), (mo(2),))
    reconfigure(at, north=options)
    assert at.intake.load("north").in_flight == 1
    at.run()
    assert north.backed_off == 1


def test_messages_in_hand_of_a_link_that_is_gone_are_answered(at):
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1), mo(2)))
    reconfigure(at, south=link())
    at.inbox_fails[:] = [StoreUnavailable("disk full")]
    at.run()
    assert smsc.statuses() == [(1, TEMPORARY), (2, TEMPORARY)]
    assert at.intake.load("north").in_flight_max == 0


def test_chunk_larger_than_the_new_batch_is_settled_all_the_same(at):
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(0),))
    at.intake.messages(smsc, tuple(mo(number) for number in range(1, 6)))
    reconfigure(at, sync={"batch_max": 2})
    at.intake.messages(smsc, tuple(mo(number) for number in range(6, 11)))
    at.run()
    assert len(smsc.statuses()) == 11
    assert [len(batch) for batch in at.batches] == [1, 5, 2, 2, 1]


def test_senders_keep_their_buckets_unless_the_limit_changed(start):
    at = start(sync={"mdn_burst": 1, "mdn_per_minute": 0.001})
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1),))
    reconfigure(at, sync={"mdn_burst": 1, "mdn_per_minute": 0.001, "short_codes": ()})
    at.intake.messages(smsc, (mo(2),))
    assert smsc.statuses() == [(2, TEMPORARY)]
    reconfigure(at, sync={"mdn_burst": 2, "mdn_per_minute": 0.001})
    at.intake.messages(smsc, (mo(3),))
    at.run()
    assert [number for number, status in smsc.statuses() if status == TEMPORARY] == [2]


# What is counted


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


# A fault at one link


class Faulty(SmscByHand):
    """A connection whose answers cannot be sent, for a fault of ours."""

    def answer(self, _pairs):
        raise ValueError("one connection is at fault")


def test_connection_at_fault_costs_no_other_its_answers(start, events):
    at = start(north=link(), south=link())
    south = SmscByHand("south")
    at.intake.messages(SmscByHand("north"), (mo(0),))
    at.intake.messages(Faulty("north"), (mo(1),))
    at.intake.messages(south, (mo(2),))
    at.run()
    assert [len(batch) for batch in at.batches] == [1, 2]
    assert south.statuses() == [(2, OK)]
    assert alarms(events) == ["link {link}: {count} messages could not be answered"]


def test_connection_at_fault_holds_up_nobody_where_the_inbox_fails(start):
    at = start(north=link(), south=link())
    south = SmscByHand("south")
    at.inbox_fails.append(StoreUnavailable("full"))
    at.intake.messages(Faulty("north"), (mo(1),))
    at.intake.messages(south, (mo(2),))
    at.run()
    assert south.statuses() == [(2, OK)]


def test_connection_at_fault_costs_no_other_its_answers_when_they_are_late(start):
    at = start(north=link(), south=link())
    bad, south = Faulty("north"), SmscByHand("south")
    at.intake.messages(SmscByHand("north"), (mo(0),))
    at.intake.messages(bad, (mo(1),))
    at.intake.messages(south, (mo(2),))
    at.reactor.pass_time(20)
    assert south.statuses() == [(2, TEMPORARY)]


def test_what_cannot_be_taken_for_settling_is_not_answered_and_holds_up_nobody(start, monkeypatch):
    at = start()
    north = SmscByHand("north")
    taken = []
    take = at.intake.settler.take

    def failing_once(received):
        taken.append(received)
        if len(taken) == 1:
            raise ValueError("a fault of ours")
        take(received)

    monkeypatch.setattr(at.intake.settler, "take", failing_once)
    at.intake.messages(north, (mo(1),))
    at.intake.messages(north, (mo(2),))
    at.run()
    assert north.statuses() == [(2, OK)]
