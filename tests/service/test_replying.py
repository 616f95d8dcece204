"""Replies leave when they are due, at the pace that the SMSC bears, and none of them twice."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
from msgspec import structs
from twisted.internet.defer import Deferred, ensureDeferred, execute
from twisted.logger import LogLevel

from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.domain.reply import Reply, ReplyTo
from kmp_smsd.service.replying import Replier, make_submit_sm
from kmp_smsd.smpp.constants import CommandStatus
from kmp_smsd.smpp.events import SubmitAnswered
from kmp_smsd.storage import StoreUnavailable, open_store
from tests.service.by_hand import link
from tests.storage.fresh import new_database
from tests.storage.stock import NOW, confirm_all, import_keys, register, settle, sync

OK, THROTTLED, QUEUE_FULL, FAILED = 0, 0x58, 0x14, 0x45
TO = ReplyTo(1, 1, "8613912345678", 0, 1, "10690001")


class LinkByHand:
    """A link that submits to an SMSC that answers when, and how, the test says."""

    def __init__(self, name="north"):
        self.name = name
        self.can_submit = True
        self.answers_at_once = None  # a command_status
        self.submitted = []
        self.waiting = []

    def submit(self, submit_sm, told):
        if self.can_submit:
            self.submitted.append(submit_sm.short_message.decode())
            self.waiting.append(told)
            if self.answers_at_once is not None:
                self.answer(self.answers_at_once)
        return self.can_submit

    def answer(self, status, number=0):
        self.waiting.pop(number)(None if status is None else SubmitAnswered(1, status, "id-1"))


class At:
    """A replier with a real store, whose clock the test moves."""

    def __init__(self, path, *, names=("north",), policy=None, **options):
        self.seconds = 0.0
        self.store = open_store(path, policy or SyncPolicy())
        self.links = {name: LinkByHand(name) for name in names}
        self.north = self.links[names[0]]
        self.options = {name: link(**{"reply": "confirmed", "bind": "transceiver", **options}) for name in names}
        self.thread = functools.partial(execute)
        self.start()

    def start(self):
        self.replier = Replier(
            self.store,
            self.options,
            lambda call, *args: self.thread(call, *args),
            monotonic=lambda: self.seconds,
            wall=lambda: NOW / 1000 + self.seconds,
            jitter=lambda: 1.0,
        )
        for one in self.links.values():
            self.replier.attach(one)

    def reload(self, **options):
        """Have the links go by other options, which makes them anew."""
        terms = {"reply": "confirmed", "bind": "transceiver", "replies_a_day": 3, **options}
        self.replier.reconfigure({name: link(**terms) for name in self.links})
        for one in self.links.values():
            self.replier.attach(one)

    @property
    def now(self):
        return NOW + int(self.seconds * 1000)

    def confirmed(self, *numbers, link="north"):
        """Have replies due to terminals of these numbers, each with a key of its own."""
        self.store.routes.set({"meter": "metering"})
        import_keys(self.store, *(f"k{number}" for number in numbers))
        for number in numbers:
            register(self.store, f"86139{number:08}", "meter")
            asked = structs.replace(sync(f"86139{number:08}", f"k{number}"), reply_to=TO, link=link)
            assert settle(self.store, asked, now=self.now) == ["bound"]
        confirm_all(self.store, now=self.now)

    def pass_time(self, seconds, step_s=0.1):
        for _ in range(round(seconds / step_s)):
            self.seconds += step_s
            self.replier.look()

    def states(self):
        return [row["state"] for row in self.store.replies.listing(limit=1_000)]


@pytest.fixture
def start(tmp_path):
    opened = []

    def started(**options):
        path = tmp_path / "kmp.db"
        new_database(path)
        opened.append(At(path, **options))
        return opened[-1]

    yield started
    for at in opened:
        at.store.close()


def test_reply_leaves_and_what_became_of_it_is_written(start):
    at = start()
    at.confirmed(1)
    at.replier.look()
    assert at.north.submitted == ["K1:ok:k1:meter"]
    assert at.states() == ["sending"]
    at.north.answer(OK)
    at.replier.look()
    (row,) = at.store.replies.listing(limit=10)
    assert (row["state"], row["command_status"], row["message_id"]) == ("sent", 0, "id-1")


def test_reply_is_on_disk_before_it_leaves(start, tmp_path):
    at = start()
    at.confirmed(1)
    seen = []
    with open_store(tmp_path / "kmp.db") as others:
        at.north.submit = lambda *_: seen.append(others.replies.listing(limit=1)[0]["state"]) or True
        at.replier.look()
    assert seen == ["sending"]


@pytest.mark.parametrize(("status", "state"), [
    (FAILED, "refused"), (0x0B, "refused"), (0x08, "refused"), (None, "unknown"),
])  # fmt: skip
def test_reply_that_was_refused_or_had_no_answer_is_not_sent_again(start, status, state):
    at = start()
    at.confirmed(1, 2)
    at.north.answers_at_once = status
    if status is None:
        at.replier.look()
        at.north.answer(None)
        at.north.answer(None)
    at.pass_time(120)
    assert at.states() == [state, state]
    assert sorted(at.north.submitted) == ["K1:ok:k1:meter", "K1:ok:k2:meter"]


@pytest.mark.parametrize("status", [THROTTLED, QUEUE_FULL])
def test_reply_throttled_for_a_minute_is_sent_once(start, status):
    at = start(reply_window=3)
    at.confirmed(*range(20))
    at.north.answers_at_once = status
    at.pass_time(60)
    assert at.states() == ["waiting"] * 20
    tries = len(at.north.submitted)
    assert tries <= 3 + 6  # the first window, then one after 1, 3, 7, 15, 31 s: the whole link waits
    at.north.answers_at_once = OK
    at.pass_time(60)
    assert at.states() == ["sent"] * 20
    taken = at.north.submitted[tries:]
    assert len(taken) == len(set(taken)) == 20


def test_refusals_of_one_window_stop_the_link_once_and_the_wait_doubles_up_to_a_minute(start):
    at = start(reply_window=5)
    at.confirmed(*range(5))
    at.replier.look()
    for _ in range(5):
        at.north.answer(THROTTLED)
    tried_at = []
    for _ in range(6000):
        at.seconds += 0.1
        at.replier.look()
        if at.north.waiting:
            assert len(at.north.waiting) == 1  # one at a time until one is taken
            tried_at.append(at.seconds)
            at.north.answer(THROTTLED)
    waits = [round(later - earlier) for earlier, later in zip([0.0, *tried_at], tried_at, strict=False)]
    assert waits[:9] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_link_that_took_one_again_takes_as_many_as_before_and_waits_as_little(start):
    at = start(reply_window=3)
    at.confirmed(*range(6))
    at.replier.look()
    for _ in range(2):
        for _ in range(3):
            at.north.answer(THROTTLED)
        at.pass_time(1.2)
        assert len(at.north.waiting) == 1
        at.north.answer(OK)
        at.pass_time(0.2)
        assert len(at.north.waiting) == 3


def test_terminal_whose_queue_is_full_keeps_the_others_from_nothing_but_pace(start):
    at = start()
    at.confirmed(*range(10))
    submit = at.north.submit

    def full_for_one(submit_sm, told):
        at.north.answers_at_once = QUEUE_FULL if b"k0:" in submit_sm.short_message else OK
        return submit(submit_sm, told)

    at.north.submit = full_for_one
    at.pass_time(60)
    assert sorted(at.states()) == ["sent"] * 9 + ["waiting"]


def test_another_link_goes_on_while_one_is_throttled(start):
    at = start(names=("north", "south"))
    at.confirmed(1)
    at.confirmed(2, link="south")
    at.north.answers_at_once = THROTTLED
    at.links["south"].answers_at_once = OK
    at.replier.look()
    at.replier.look()
    assert at.states() == ["waiting", "sent"]


def test_throttled_reply_expires(start):
    at = start(policy=SyncPolicy(reply_expire_s=30))
    at.confirmed(1)
    at.north.answers_at_once = THROTTLED
    at.pass_time(31)
    assert at.states() == ["expired"]
    at.north.answers_at_once = OK
    tries = len(at.north.submitted)
    at.pass_time(120)
    assert len(at.north.submitted) == tries


def test_no_more_replies_are_unanswered_than_the_window_allows(start):
    at = start(reply_window=2)
    at.confirmed(1, 2, 3)
    at.pass_time(5)
    assert len(at.north.submitted) == 2
    at.north.answer(OK)
    at.pass_time(0.2)
    assert len(at.north.submitted) == 3


def test_replies_leave_at_their_rate(start):
    at = start(reply_per_s=2, reply_window=100)
    at.confirmed(*range(12))
    at.north.answers_at_once = OK
    at.replier.look()
    assert len(at.north.submitted) == 2
    at.pass_time(3)
    assert 7 <= len(at.north.submitted) <= 8


def test_link_sends_no_more_replies_in_a_day_than_it_may_whoever_counted_before(start, events):
    at = start(names=("north", "south"), replies_a_day=5, policy=SyncPolicy(reply_expire_s=86_400))
    at.confirmed(*range(8))
    at.confirmed(9, link="south")
    at.north.answers_at_once = at.links["south"].answers_at_once = OK
    at.pass_time(130)
    assert len(at.north.submitted) == 5
    assert len(at.links["south"].submitted) == 1
    assert [event["link"] for event in events if "its limit" in event["log_format"]] == ["north"]
    at.start()
    at.pass_time(86_000, step_s=50)
    assert len(at.north.submitted) == 5
    at.confirmed(*range(10, 16))
    at.pass_time(600, step_s=10)
    assert len(at.north.submitted) == 10


def test_link_that_a_reload_changed_goes_on_with_what_is_left_of_its_day(start, events):
    at = start(replies_a_day=3, policy=SyncPolicy(reply_expire_s=86_400))
    at.north.answers_at_once = OK
    at.confirmed(1, 2)
    at.pass_time(1)
    at.reload(reply_per_s=7.0)
    at.confirmed(3, 4)
    at.pass_time(0.1)
    assert len(at.north.submitted) == 3
    assert [event["event"] for event in events if "its limit" in event["log_format"]] == ["replies_spent"]


def test_reload_that_changes_a_link_does_not_say_that_its_day_is_spent(start, events):
    at = start(replies_a_day=3)
    at.pass_time(1)
    at.reload(reply_per_s=7.0)
    at.pass_time(1)
    exchange = at.store.replies.exchange

    def reload_meanwhile(*args):
        at.reload(reply_per_s=8.0)
        return exchange(*args)

    at.store.replies.exchange = reload_meanwhile
    at.pass_time(0.1)
    assert [event for event in events if "its limit" in event["log_format"]] == []


def test_reply_that_was_not_taken_costs_nothing_of_the_day(start):
    at = start(replies_a_day=1)
    at.confirmed(1)
    at.north.answers_at_once = THROTTLED
    at.replier.look()
    at.north.answers_at_once = OK
    at.pass_time(130)
    assert at.states() == ["sent"]


def test_reply_waits_for_its_link_and_its_link_alone(start):
    at = start(names=("north", "south"))
    at.north.can_submit = False
    at.confirmed(1)
    at.pass_time(10)
    assert at.states() == ["waiting"]
    assert at.links["south"].submitted == []
    at.north.can_submit = True
    at.pass_time(0.2)
    assert at.states() == ["sending"]


def test_reply_whose_link_was_lost_before_it_left_is_sent_later(start):
    at = start()
    at.confirmed(1)
    submit = at.north.submit
    at.north.submit = lambda *_: False
    at.replier.look()
    assert at.states() == ["sending"]
    at.north.submit = submit
    at.pass_time(0.2)
    assert at.north.submitted == ["K1:ok:k1:meter"]


def test_reply_that_was_being_sent_before_a_start_is_given_up(start):
    at = start()
    at.confirmed(1)
    at.replier.look()
    at.start()
    at.pass_time(10)
    assert len(at.north.submitted) == 1
    assert at.states() == ["unknown"]


def test_nothing_is_asked_of_the_store_where_no_link_replies_but_for_the_sweep(start):
    at = start(reply="never")
    calls = []
    at.thread = lambda call, *args: calls.append(call.__name__) or execute(call, *args)
    at.pass_time(100)
    assert len(calls) == 2


def test_what_became_of_replies_is_kept_until_the_store_is_back(start, events):
    at = start()
    at.confirmed(1)
    at.replier.look()
    at.north.answer(OK)
    exchange = at.store.replies.exchange

    def unavailable(*_):
        raise StoreUnavailable("disk full")

    at.store.replies.exchange = unavailable
    at.pass_time(1)
    assert at.states() == ["sending"]
    assert [event["log_format"] for event in events].count("replies wait, store unavailable: {reason}") == 1
    at.store.replies.exchange = exchange
    at.pass_time(0.1)
    assert at.states() == ["sent"]
    assert len(at.north.submitted) == 1


@pytest.mark.parametrize("error", [StoreUnavailable("disk full"), RuntimeError("a fault of ours")])
def test_store_that_fails_at_every_look_is_told_every_ten_seconds(start, events, error):
    at = start()

    def failing(*_):
        raise error

    at.store.replies.exchange = failing
    at.pass_time(25)
    assert len([event for event in events if "store" in event["log_format"]]) == 3


def test_result_that_cannot_be_written_stops_no_other_reply(start, events):
    at = start(names=("north", "south"))
    at.confirmed(1, 2, 3)
    at.confirmed(4, link="south")
    at.replier.look()
    for message_id in ("id-1", "\ud800", "id-3"):  # the second is no text that a database takes
        at.north.waiting.pop(0)(SubmitAnswered(1, OK, message_id))
    at.confirmed(5, link="south")
    at.pass_time(1)
    assert at.states() == ["sent", "sending", "sent", "sending", "sending"]
    assert at.links["south"].submitted == ["K1:ok:k4:meter", "K1:ok:k5:meter"]
    assert [event.get("number") for event in events if event["log_level"] >= LogLevel.warn] == [2]
    at.pass_time(3700, step_s=60)
    assert at.states()[:3] == ["sent", "unknown", "sent"]


def test_finishing_writes_what_became_of_the_last_replies(start):
    at = start()
    at.confirmed(1, 2)
    started = []
    at.thread = lambda call, *args: started.append((Deferred(), call, args)) or started[-1][0]
    at.replier.look()
    finished = ensureDeferred(at.replier.finish())
    at.north.can_submit = False  # drained meanwhile

    def run():
        deferred, call, args = started.pop()
        deferred.callback(call(*args))

    run()
    assert at.north.submitted == []
    assert not finished.called
    run()
    assert finished.called
    assert at.states() == ["waiting", "waiting"]


def test_no_reply_is_written_that_no_message_holds(start):
    at = start()
    at.confirmed(1)
    at.store._database.connection.execute(
        """UPDATE replies SET reply_to = replace(reply_to, '10690001', '106900010690001069000')"""
    )
    at.confirmed(2)
    at.replier.look()
    at.replier.look()
    assert at.states() == ["refused", "sending"]


def test_message_goes_back_to_where_it_came_from():
    to = ReplyTo(1, 1, "+8613912345678", 3, 9, "10690001", 5000, 8080)
    reply = Reply(number=1, link="north", key_id="K" * 64, app_id="a" * 32, to=to, expires_at=NOW + 90_000)
    message = make_submit_sm(reply, NOW)
    assert (message.dest_addr_ton, message.dest_addr_npi, message.destination_addr) == (1, 1, "+8613912345678")
    assert (message.source_addr_ton, message.source_addr_npi, message.source_addr) == (3, 9, "10690001")
    assert (message.esm_class, message.data_coding) == (0x40, 4)
    assert message.validity_period == "000000000130000R"
    assert message.short_message[:7] == bytes.fromhex("06 05 04 1388 1f90")
    assert message.short_message[7:] == reply.text
    assert len(message.short_message) == 110 <= 140
    plain = make_submit_sm(replace(reply, to=TO), NOW)
    assert (plain.esm_class, plain.data_coding, plain.short_message) == (0, 0, reply.text)


def test_statuses_are_those_of_the_specification():
    assert (CommandStatus.ESME_RTHROTTLED, CommandStatus.ESME_RMSGQFUL) == (THROTTLED, QUEUE_FULL)
