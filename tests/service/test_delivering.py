from __future__ import annotations

import gc
import logging
import threading
from contextlib import closing
from itertools import islice

import pytest
from pysqlite3 import dbapi2 as sqlite3
from twisted.logger import LogLevel, formatEvent

from kmp_smsd.channels.protocol import Bind, ChannelDown, Confirmed, Rejected, TryLater, Withdraw
from kmp_smsd.domain.shown import masked
from kmp_smsd.service import delivering, judging
from kmp_smsd.service.delivering import FIRST_ROWS, MOST_ROWS, Deliverer, Ended
from kmp_smsd.service.judging import Judge, Patience
from kmp_smsd.service.preparing import Preparer, Unsendable
from kmp_smsd.storage import StoreUnavailable, open_store
from kmp_smsd.storage.outbox import Outbox
from kmp_smsd.storage.platforms import PlatformState
from tests.service.by_hand import alarms
from tests.service.vendor import Vendor, clear, make_due, mdn
from tests.storage.fresh import new_database
from tests.storage.stock import NOW, row_at

HOUR_MS, TEN_MINUTES_MS = 3_600_000, 600_000
TERMINALS = range(1, 41)


class ChannelByHand:
    """An open road to a platform that answers as `at.answer` says, and takes `at.room` deliveries at a time."""

    certificate_ends_at = None

    def __init__(self, at):
        self.at = at
        self.closed = False

    def deliver(self, batch):
        assert not self.closed
        self.at.batches.append([])
        while taken := list(islice(batch, self.at.room)):
            self.at.batches[-1] += [delivery.mdn for delivery in taken]
            for delivery in taken:
                self.at.deliveries.append(delivery)
                result = self.at.answer(delivery)
                if isinstance(result, Exception):
                    raise result
                if self.closed:
                    raise ChannelDown("closed under it")
                yield result

    def close(self):
        self.closed = True


class At:
    """A deliverer with a real store; `store` is what others see of it."""

    def __init__(self, path, vendor):
        self.path = path
        self.now = NOW
        self.elapsed_s = 0.0
        self.store = open_store(path)
        self.store.routes.set(dict.fromkeys(("meter", "alarm", "tracker"), "metering"))
        vendor.import_into(
            self.store, *[(f"KEY-{number}", None) for number in TERMINALS], ("KEY-99", "meter"), ("KEY-98", "alarm")
        )
        self.answer = Confirmed
        self.room = 1_000
        self.unreachable = None
        self.channels, self.batches, self.deliveries = [], [], []
        self.mine = None
        self.preparer = Preparer("metering", ("meter",), vendor.data_keys())
        self.start()

    def start(self):
        self.deliverer = Deliverer(
            "metering",
            self.preparer,
            self._open_channel,
            self._open_store,
            Patience(retry_min_s=5.0, retry_max_s=900.0, jitter=lambda: 1.0),
            monotonic=lambda: self.elapsed_s,
            wall=lambda: self.now / 1000,
        )

    def restart(self):
        """Dispatch ends, however it does, and is started again."""
        self.deliverer.close()
        self.start()

    def _open_channel(self, cancel):
        if self.unreachable is not None:
            raise self.unreachable
        if cancel.requested:
            raise ChannelDown("connecting was cancelled")
        self.channels.append(ChannelByHand(self))
        return self.channels[-1]

    def _open_store(self):
        self.mine = open_store(self.path)
        return self.mine

    def run(self, after_ms=0):
        self.now += after_ms
        self.elapsed_s += after_ms / 1000
        self.batches.clear()
        self.deliveries.clear()
        return self.deliverer.run()

    def row(self, number, app_id="meter"):
        return row_at(self.store, mdn(number), app_id)

    def confirmed(self, *numbers):
        return all(self.row(number)["confirmed_version"] == self.row(number)["wanted_version"] for number in numbers)

    def rejected(self, *numbers):
        return all(self.row(number)["rejected_version"] == self.row(number)["wanted_version"] for number in numbers)

    def platform(self):
        return next(row for row in self.store.platforms.listing() if row["platform"] == "metering")

    def tamper(self, sql):
        """What somebody can do who stole intake."""
        with closing(sqlite3.connect(str(self.path), isolation_level=None)) as connection:
            connection.execute(sql)


@pytest.fixture(scope="module")
def vendor():
    return Vendor()


@pytest.fixture
def at(tmp_path, vendor):
    path = tmp_path / "kmp.db"
    new_database(path)
    one = At(path, vendor)
    yield one
    one.deliverer.close()
    one.store.close()


def answering(default=Confirmed, **by_number):
    """`default` for all but the numbers that are named: n3=..."""
    named = {mdn(int(name[1:])): result for name, result in by_number.items()}
    return lambda delivery: named.get(delivery.mdn, default)(delivery)


# Results


def test_confirmed_delivery_is_settled(at):
    make_due(at.store, 1)
    assert at.run() == Ended(None)
    (delivery,) = at.deliveries
    assert (delivery.mdn, delivery.app_id, delivery.key) == (mdn(1), "meter", clear("KEY-1"))
    assert at.row(1)["confirmed_version"] == delivery.version == at.row(1)["wanted_version"]
    assert at.run() == Ended(None)
    assert at.batches == []


def test_withdraw_is_delivered_and_settled(at):
    make_due(at.store, 1)
    at.run()
    at.store.bindings.withdraw(mdn(1), "meter", at.now)
    at.run()
    assert [type(delivery) for delivery in at.deliveries] == [Withdraw]
    assert at.confirmed(1)


def test_what_is_due_for_longest_goes_first_by_mdn_and_what_is_not_due_does_not_go(at, monkeypatch):
    monkeypatch.setattr(delivering, "FIRST_ROWS", 2)
    make_due(at.store, 9)
    at.run()
    make_due(at.store, 3, now=NOW + 20)
    make_due(at.store, 1, now=NOW + 30)
    make_due(at.store, 4, now=NOW + 10)
    make_due(at.store, 2, now=NOW + 500)
    at.run(after_ms=100)
    assert at.batches == [[mdn(3), mdn(4)], [mdn(1)]]


def test_slow_platform_gets_what_is_due_for_longest_before_what_came_later(at):
    """Else a platform that takes few in a second would get low numbers, and high ones never."""
    make_due(at.store, 99)
    at.run()  # connects
    at.room = 1
    coming = iter(range(1, 21))  # one with each that goes

    def answer(delivery):
        at.elapsed_s += delivering.FRESH_S / 4
        for number in islice(coming, 1):
            make_due(at.store, number, now=at.now)
        return Confirmed(delivery)

    at.answer = answer
    make_due(at.store, *range(31, 41))
    at.run(after_ms=100)
    gone = [delivery.mdn for delivery in at.deliveries]
    assert gone[:4] == [mdn(number) for number in range(31, 35)]  # of all that were looked up
    assert gone.index(mdn(40)) < gone.index(mdn(10))
    assert len(gone) == 30


def test_what_failed_before_goes_last(at):
    """It may be what brings the platform down."""
    make_due(at.store, 1)
    at.answer = lambda delivery: TryLater(delivery, "disk full")
    at.run()
    make_due(at.store, 2, 3)
    at.answer = Confirmed
    at.run(after_ms=60_000)
    assert at.batches == [[mdn(2), mdn(3), mdn(1)]]


def test_as_many_are_looked_up_as_went_out_in_time(at, monkeypatch):
    asked = []
    monkeypatch.setattr(delivering, "FIRST_ROWS", 2)
    monkeypatch.setattr(delivering, "MOST_ROWS", 12)
    at.start()
    make_due(at.store, 99)
    at.run()  # connects, and all that was due goes out
    due = at.mine.outbox.due
    monkeypatch.setattr(at.mine.outbox, "due", lambda *words, **order: asked.append(words[-1]) or due(*words, **order))
    make_due(at.store, *range(1, 41))
    at.room = 1

    def answer(delivery):
        at.elapsed_s += delivering.FRESH_S / 3 if 15 <= len(at.deliveries) < 20 else 0.0
        return Confirmed(delivery)

    at.answer = answer
    at.run()
    assert asked == [2, 4, 8, 12, 3, 6, 12, 12, 12]  # three in the slow second; the last finds nothing
    assert at.confirmed(*range(1, 41))
    asked.clear()
    make_due(at.store, 99)
    at.run(after_ms=1000)
    assert asked[0] == 2  # a new run begins with few


def test_what_comes_due_meanwhile_goes_out_in_the_same_run(at):
    make_due(at.store, 1)

    def answer(delivery):
        if delivery.mdn == mdn(1):
            make_due(at.store, 2)
        return Confirmed(delivery)

    at.answer = answer
    assert at.run() == Ended(None)
    assert at.batches == [[mdn(1)], [mdn(2)]]
    assert len(at.channels) == 1


def test_key_is_in_clear_only_when_there_is_room_for_it_on_the_road(at):
    make_due(at.store, 11)
    at.run()  # connects
    made = []
    prepare = at.preparer.prepare
    at.preparer.prepare = lambda row, sealed: made.append(row.mdn) or prepare(row, sealed)
    make_due(at.store, *range(1, 11))
    at.room, ahead = 2, []

    def answer(delivery):
        ahead.append(len(made) - len(at.deliveries))
        return Confirmed(delivery)

    at.answer = answer
    at.run()
    assert at.confirmed(*range(1, 12))
    assert max(ahead) == 1  # of the two that there is room for


def test_what_was_looked_up_a_second_ago_is_looked_up_again(at):
    make_due(at.store, 1, 2, 3)
    at.room = 1

    def slow(delivery):
        if delivery.mdn == mdn(1):
            at.elapsed_s += 1.0
            at.store.keys.revoke("KEY-2", None, at.now, compromised=True)
        return Confirmed(delivery)

    at.answer = slow
    at.run()
    assert [type(delivery) for delivery in at.deliveries if delivery.mdn == mdn(2)] == [Withdraw]
    assert at.confirmed(1, 2, 3)


def test_wanted_meanwhile_is_delivered_too(at):
    make_due(at.store, 1)

    def answer(delivery):
        if isinstance(delivery, Bind):
            at.store.bindings.withdraw(mdn(1), "meter", at.now)
        return Confirmed(delivery)

    at.answer = answer
    at.run()
    assert [type(delivery) for delivery in at.deliveries] == [Bind, Withdraw]
    assert at.confirmed(1)


def test_delivery_that_is_put_off_waits_longer_each_time(at):
    make_due(at.store, 1)
    at.answer = lambda delivery: TryLater(delivery, "no room")
    waits = []
    for _ in range(10):
        assert at.run() == Ended(None)
        assert (at.row(1)["error"], len(at.deliveries)) == ("no room", 1)
        waits.append((at.row(1)["try_at"] - at.now) / 1000)
        at.now = at.row(1)["try_at"]
    assert waits == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]


@pytest.mark.parametrize(
    ("asked_s", "wait_s"),
    [(30, 30), (5, 5), (900, 900), (1e300, 900), (float("inf"), 900), (0, 5), (-60, 5), (float("nan"), 5)],
)
def test_platform_may_say_how_long_to_wait_within_our_bounds(at, asked_s, wait_s):
    make_due(at.store, 1)
    at.answer = lambda delivery: TryLater(delivery, "busy", retry_after_s=asked_s)
    assert at.run() == Ended(None)
    assert len(at.deliveries) == 1
    assert at.row(1)["try_at"] - at.now == wait_s * 1000


def test_put_off_row_keeps_nobody_waiting(at):
    make_due(at.store, 1, 2, 3)
    at.answer = answering(n1=lambda delivery: TryLater(delivery, "busy"))
    at.run()
    assert at.confirmed(2, 3)
    assert not at.confirmed(1)


def test_outbid_delivery_is_wanted_above_what_the_platform_holds(at):
    make_due(at.store, 1)
    held = at.now + 1000

    def answer(delivery):
        return Confirmed(delivery) if delivery.version > held else TryLater(delivery, "stale", held_version=held)

    at.answer = answer
    at.run()
    assert [delivery.version for delivery in at.deliveries] == [NOW, held + 1]
    assert at.confirmed(1)


def test_platform_that_always_holds_more_is_asked_less_and_less_often(at):
    make_due(at.store, 1)
    at.answer = lambda delivery: TryLater(delivery, "stale", held_version=delivery.version)
    waits = []
    for _ in range(4):
        assert at.run() == Ended(None)
        waits.append((at.row(1)["try_at"] - at.now) / 1000)
        at.now = at.row(1)["try_at"]
    assert waits == [5, 10, 20, 40]


def test_platform_that_always_holds_more_is_seen_by_people(at):
    make_due(at.store, 1)
    at.answer = lambda delivery: TryLater(
        delivery, f"holds {delivery.version + 1}", held_version=delivery.version + 1
    )  # fmt: skip
    tries = 0
    for _ in range(3):
        at.run()
        tries += len(at.deliveries)
        row = at.row(1)
        assert (row["attempts"], row["error"]) == (tries, f"holds {at.deliveries[-1].version + 1}")
        at.now = row["try_at"]
    assert at.platform()["oldest_due_at"] == NOW  # so that its age shows
    at.answer = Confirmed
    at.run()
    assert (at.row(1)["attempts"], at.row(1)["error"]) == (0, None)


def test_platform_cannot_ask_to_be_asked_sooner_than_we_would(at):
    make_due(at.store, 1)
    at.answer = lambda delivery: TryLater(delivery, "busy", retry_after_s=7)
    waits = []
    for _ in range(3):
        at.run()
        waits.append((at.row(1)["try_at"] - at.now) / 1000)
        at.now = at.row(1)["try_at"]
    assert waits == [7, 10, 20]


def test_rejected_delivery_shows_why_and_does_not_go_again(at, events):
    make_due(at.store, 1)
    at.answer = lambda delivery: Rejected(delivery, "unknown meter")
    at.run()
    assert at.rejected(1)
    assert at.row(1)["error"] == "unknown meter"
    at.run(after_ms=30 * 24 * HOUR_MS)
    assert at.deliveries == []
    assert alarms(events) == []


def test_peer_that_cannot_be_trusted_is_an_alarm(at, events):
    make_due(at.store, 1)
    at.answer = lambda delivery: Rejected(delivery, "wrong receipt", alarm=True)
    at.run()
    assert len(alarms(events)) == 1


# A platform that is down


def test_what_was_answered_before_the_platform_went_down_is_settled(at):
    make_due(at.store, 1, 2, 3, 4)
    at.answer = answering(
        n2=lambda delivery: Rejected(delivery, "no"), n3=lambda _: ChannelDown("connection lost"), n4=pytest.fail
    )
    ended = at.run()
    assert ended == Ended("connection lost", 5000)
    assert at.channels[0].closed
    assert not at.deliverer.is_open
    assert at.confirmed(1)
    assert at.rejected(2)
    assert [at.row(number)["try_at"] for number in (3, 4)] == [NOW, NOW]  # several may be to blame: both are due
    at.answer = Confirmed
    assert at.run(after_ms=5000) == Ended(None)
    assert at.batches == [[mdn(3)], [mdn(4)]]
    assert len(at.channels) == 2


def test_back_off_of_a_platform_grows_is_capped_and_ends_with_a_confirmation(at):
    make_due(at.store, 1, 2)
    at.unreachable = ChannelDown("refused")
    waits = []
    for _ in range(10):
        assert not at.deliverer.is_open
        waits.append(at.run().wait_ms / 1000)
        assert at.deliverer.failing
    assert waits == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]
    at.unreachable = None
    assert at.run() == Ended(None)
    assert at.confirmed(1, 2)
    assert not at.deliverer.failing
    make_due(at.store, 3)
    at.answer = lambda _: ChannelDown("lost")
    assert at.run().wait_ms == 5000


@pytest.mark.parametrize("kind", [TryLater, Rejected])
def test_platform_that_is_back_is_up_whatever_it_answers(at, events, kind):
    make_due(at.store, *range(1, 9))
    at.unreachable = ChannelDown("no route to host")
    for _ in range(4):
        at.run(after_ms=HOUR_MS)
    at.unreachable = None
    at.answer = lambda delivery: kind(delivery, "maintenance")
    at.run(after_ms=HOUR_MS)
    assert [len(batch) for batch in at.batches] == [1, 2, 4, 1]  # as after any outage
    assert not at.deliverer.failing
    assert at.deliverer.state.last_error is None
    at.run(after_ms=HOUR_MS)
    shown = at.platform()
    assert (shown["last_error"], shown["last_error_at"], shown["next_try_at"]) == (None, None, None)
    assert [event["event"] for event in events].count("platform_up") == 1


def test_what_a_platform_puts_off_is_counted(at):
    make_due(at.store, 1, 2, 3)
    at.answer = answering(
        n1=lambda delivery: TryLater(delivery, "busy"),
        n2=lambda delivery: (
            TryLater(delivery, "stale", held_version=NOW + 1) if delivery.version == NOW else Confirmed(delivery)
        ),
    )
    at.run()
    counts = at.deliverer.counts
    assert (counts.confirmed, counts.postponed, counts.rejections, counts.failures, counts.pushes) == (2, 2, 0, 0, 4)


def test_stop_while_it_connects_is_no_failure_of_the_platform(at, events):
    make_due(at.store, 1)

    def cancelled(_cancel):
        at.deliverer.stop()
        raise ChannelDown("connecting was cancelled")

    open_channel, at.deliverer._open_channel = at.deliverer._open_channel, cancelled
    at.run()
    assert not at.deliverer.failing
    at.deliverer.again()
    at.deliverer._open_channel = open_channel
    at.run()
    assert at.confirmed(1)
    assert at.deliverer.counts.failures == 0
    assert events == []


def test_a_turn_ends_although_more_is_due(at):
    """Where more platforms have work than there are connections, they take turns."""
    make_due(at.store, *range(1, 9))

    def slow(delivery):
        at.elapsed_s += 25.0
        return Confirmed(delivery)

    at.answer, at.room = slow, 1
    assert at.run() == Ended(None)
    assert [len(batch) for batch in at.batches] == [1, 1, 1]
    assert at.deliverer.is_open
    at.run()
    assert at.confirmed(*range(1, 7))


def test_failed_try_is_shown_to_people(at):
    make_due(at.store, 1)
    at.unreachable = ChannelDown("connection refused")
    at.run()
    shown = at.platform()
    assert (shown["last_error"], shown["last_error_at"], shown["next_try_at"]) == (
        "connection refused",
        at.now,
        at.now + 5000,
    )
    at.unreachable = None
    at.run(after_ms=5000)
    shown = at.platform()
    assert (shown["last_error"], shown["last_success_at"], shown["next_try_at"]) == (None, at.now, None)


def test_platform_that_is_down_stays_held_back(at):
    reject_all(at, *range(1, 21))
    make_due(at.store, 21)
    at.unreachable = ChannelDown("refused")
    at.run(after_ms=TEN_MINUTES_MS)
    assert (at.platform()["held_back"], at.platform()["last_error"]) == (1, "refused")


def test_failed_try_that_cannot_be_shown_is_a_failed_try(at, monkeypatch):
    make_due(at.store, 1)
    at.run()
    make_due(at.store, 2)
    at.deliverer.close_channel()
    at.unreachable = ChannelDown("refused")
    monkeypatch.setattr(at.mine.platforms, "report", raising(StoreUnavailable("disk full")))
    assert at.run() == Ended("refused", 5000)


def test_success_after_success_is_written_once_in_ten_seconds(at):
    for number, after_ms, seen in [(1, 0, 0), (2, 9_999, 0), (3, 1, 10_000)]:
        make_due(at.store, number)
        at.run(after_ms=after_ms)
        assert at.platform()["last_success_at"] == NOW + seen


def test_poison_delivery_is_put_off_so_that_the_others_pass(at):
    """The platform goes down with the third, whatever it was sent before."""
    make_due(at.store, 1, 2, 3, 4, 5)
    at.answer = answering(n3=lambda _: ChannelDown("crashed"))
    at.run()
    assert at.confirmed(1, 2)
    assert at.row(3)["try_at"] == NOW
    ended = at.run(after_ms=60_000)
    assert at.batches == [[mdn(3)]]
    assert (at.row(3)["error"], at.row(3)["try_at"]) == ("crashed", at.now + 5000)
    at.now += ended.wait_ms
    at.run()
    assert at.confirmed(4, 5)
    assert not at.confirmed(3)


def test_poison_delivery_is_found_though_its_mdn_is_the_first_and_others_wait_for_longer(at):
    """Else it went first each time, and of the others few passed for every failure."""
    at.room = 4
    for number in range(2, 14):
        make_due(at.store, number, now=NOW - 1000 + number)
    make_due(at.store, 1)
    at.answer = answering(n1=lambda _: ChannelDown("crashed"))
    at.run()
    assert at.batches == [[mdn(1), mdn(2), mdn(3), mdn(4)]]
    for _ in range(4):
        at.run(after_ms=60_000)
    assert at.batches == [[mdn(13)], [mdn(1)]]
    assert at.row(1)["error"] == "crashed"
    assert at.confirmed(*range(2, 14))


def test_poison_delivery_is_found_though_others_whose_mdns_come_before_it_keep_coming(at):
    at.answer = answering(n30=lambda _: ChannelDown("crashed"))
    at.room = 2
    make_due(at.store, 30, 40)
    for number in range(1, 9, 2):
        make_due(at.store, number, number + 1, now=at.now + 1)
        at.run(after_ms=60_000)
    assert at.row(30)["error"] == "crashed"
    at.run(after_ms=1000)
    assert at.confirmed(40, *range(1, 9))


def test_poison_delivery_is_found_soon_though_nobody_who_goes_with_it_is_answered(at):
    """The platform takes all that has come together, and goes down before it answers any of it."""
    make_due(at.store, *range(1, 41))
    at.answer = lambda one: ChannelDown("crashed") if mdn(40) in at.batches[-1] else Confirmed(one)
    gone = []
    for _ in range(4):
        at.run(after_ms=60_000)
        gone.append([len(batch) for batch in at.batches])
    assert gone == [[40], [1, 2, 4, 8, 16, 9], [1, 2, 4, 2], [1, 1]]
    assert at.row(40)["error"] == "crashed"
    assert at.confirmed(*range(1, 40))


def test_row_is_no_suspect_when_the_platform_was_never_reached(at):
    make_due(at.store, 1)
    at.unreachable = ChannelDown("refused")
    for _ in range(5):
        at.run()
    assert (at.row(1)["try_at"], at.row(1)["attempts"]) == (NOW, 0)


def test_row_that_was_on_the_road_when_the_store_failed_is_no_suspect_later(at, monkeypatch):
    make_due(at.store, 1, 2)

    def answer(delivery):
        at.elapsed_s += 1.0
        return Confirmed(delivery)

    at.answer = answer
    at.run()
    make_due(at.store, 3, 4)
    with monkeypatch.context() as patch:
        patch.setattr(at.mine.outbox, "settle", raising(StoreUnavailable("disk full")))
        at.run()
    at.unreachable = ChannelDown("refused")
    at.run()
    assert at.row(4)["attempts"] == 0


def raising(error):
    def call(*_args, **_keywords):
        raise error

    return call


# Rejections in a row


def reject_all(at, *numbers):
    make_due(at.store, *numbers)
    at.answer = lambda delivery: Rejected(delivery, "no")
    return at.run()


def test_platform_is_held_back_after_twenty_rejections_in_a_row(at, events):
    assert reject_all(at, *range(1, 20)) == Ended(None)
    assert not at.platform()["held_back"]
    ended = reject_all(at, 20)
    assert ended.wait_ms == TEN_MINUTES_MS
    assert ended.error is not None
    shown = at.platform()
    assert (shown["held_back"], shown["next_try_at"]) == (1, at.now + TEN_MINUTES_MS)
    assert len(alarms(events)) == 1


def test_holding_back_begins_at_once_and_what_is_on_the_road_stays_due(at):
    reject_all(at, *TERMINALS)
    assert at.rejected(*range(1, 21))
    assert [at.row(number)["rejected_version"] for number in range(21, 41)] == [0] * 20
    assert at.channels[0].closed  # else answers would be left in it
    assert at.channels[0].at.deliveries[-1].mdn == mdn(20)


def test_platform_that_is_held_back_is_tried_with_one_delivery_each_ten_minutes(at):
    reject_all(at, *range(1, 21))
    make_due(at.store, 21, 22, 23)
    for number in (21, 22):
        assert at.run(after_ms=TEN_MINUTES_MS).wait_ms == TEN_MINUTES_MS
        assert at.batches == [[mdn(number)]]
    at.answer = lambda delivery: TryLater(delivery, "busy")
    assert at.run(after_ms=TEN_MINUTES_MS).wait_ms == TEN_MINUTES_MS
    assert at.platform()["held_back"] == 1


def test_platform_that_is_held_back_and_holds_later_versions_does_not_wait_ten_minutes_for_each(at, monkeypatch):
    reject_all(at, *range(1, 21))
    due, limits = at.mine.outbox.due, []
    monkeypatch.setattr(at.mine.outbox, "due", lambda *asked: limits.append(asked[-1]) or due(*asked))
    make_due(at.store, 21, 22)
    held = at.row(22)["wanted_version"] + TEN_MINUTES_MS + 1
    at.answer = lambda one: Confirmed(one) if one.version > held else TryLater(one, "stale", held_version=held)
    assert at.run(after_ms=TEN_MINUTES_MS) == Ended(None)
    assert at.batches[:3] == [[mdn(21)], [mdn(22)], [mdn(21)]]
    assert len(at.channels) == 2  # the first was closed with the last rejection
    assert limits == [MOST_ROWS, MOST_ROWS, *[FIRST_ROWS] * (len(limits) - 2)]  # looked up anew once it was connected
    assert at.confirmed(21, 22)
    assert not at.platform()["held_back"]


def test_what_must_not_be_sent_to_a_platform_that_is_held_back_is_put_off_together(at, monkeypatch):
    """As after the app that it does not know was taken out of its file. To look up what is due may take long."""
    reject_all(at, *range(1, 31))
    at.tamper("UPDATE keys SET state = 'suspended' WHERE key_id <> 'KEY-30'")
    due, found = at.mine.outbox.due, []
    monkeypatch.setattr(at.mine.outbox, "due", lambda *asked: found.append(due(*asked)) or found[-1])
    at.run(after_ms=TEN_MINUTES_MS)
    assert at.batches == [[mdn(30)]]
    assert [len(rows) for rows in found] == [10, 1]
    assert [at.row(number)["try_at"] for number in range(21, 30)] == [at.now + HOUR_MS] * 9


def test_platform_that_is_held_back_is_tried_with_one_app_after_the_other(at, vendor):
    at.preparer = Preparer("metering", ("meter", "alarm", "tracker"), vendor.data_keys())
    at.restart()
    reject_all(at, *range(1, 31))
    make_due(at.store, 31, app_id="alarm", now=at.now)
    make_due(at.store, 32, app_id="tracker", now=at.now)
    at.answer = lambda one: Confirmed(one) if one.app_id == "tracker" else Rejected(one, "unknown app")
    at.run(after_ms=TEN_MINUTES_MS)
    assert at.batches == [[mdn(31)]]
    at.run(after_ms=TEN_MINUTES_MS)
    assert at.batches[0] == [mdn(32)]
    assert at.row(32, "tracker")["confirmed_version"] > 0


def test_first_confirmation_ends_the_holding_back_and_lifts_the_rejections_of_its_run(at):
    reject_all(at, 30)
    at.answer = Confirmed
    make_due(at.store, 31)
    at.run(after_ms=1)  # that one rejection stands for itself
    reject_all(at, *range(1, 21))
    make_due(at.store, 21)
    at.answer = Confirmed
    assert at.run(after_ms=TEN_MINUTES_MS) == Ended(None)
    assert at.confirmed(*range(1, 22))
    assert at.rejected(30)
    assert not at.platform()["held_back"]
    reject_all(at, *range(22, 30))
    assert not at.platform()["held_back"]  # the count began anew


def test_rejection_before_the_last_confirmation_stays_though_both_are_settled_with_the_run(at):
    make_due(at.store, *range(1, 23))

    def answer(delivery):
        at.now += 1
        return Confirmed(delivery) if delivery.mdn == mdn(2) else Rejected(delivery, "no")

    at.answer = answer
    at.run()
    assert at.platform()["held_back"]
    make_due(at.store, 30)
    at.answer = Confirmed
    at.run(after_ms=TEN_MINUTES_MS)
    assert at.confirmed(*range(2, 23), 30)
    assert at.rejected(1)


def test_holding_back_outlives_a_restart_and_so_does_what_lifts_with_it(at):
    make_due(at.store, 39)
    at.run()
    reject_all(at, 40)
    at.answer = Confirmed
    make_due(at.store, 38)
    at.run(after_ms=1)  # success at NOW is stored, this one is routine
    at.now += 1
    reject_all(at, *range(1, 21))
    at.restart()
    make_due(at.store, 21, 22)
    ended = reject_all(at, 23)
    assert (len(at.deliveries), ended.error) == (1, "held back after many rejections")
    shown = at.platform()
    assert (shown["held_back"], shown["last_error"]) == (1, "20 rejections in a row")
    at.restart()
    at.answer = Confirmed
    at.run(after_ms=TEN_MINUTES_MS)
    assert at.confirmed(*range(1, 24))
    assert at.rejected(40)
    assert not at.platform()["held_back"]


def test_platform_that_rejects_on_after_a_restart_is_no_second_alarm(at, events):
    reject_all(at, *range(1, 21))
    at.restart()
    for number in range(21, 41):
        reject_all(at, number)
    assert at.rejected(*TERMINALS)
    assert len(alarms(events)) == 1


def test_holding_back_that_follows_confirmations_is_shown_and_kept(at):
    make_due(at.store, *TERMINALS)
    at.answer = lambda delivery: (
        Confirmed(delivery) if int(delivery.mdn[-3:]) <= 5 else Rejected(delivery, "no")
    )  # fmt: skip
    at.run()
    shown = at.platform()
    assert (shown["held_back"], shown["last_success_at"], shown["next_try_at"]) == (1, NOW, NOW + TEN_MINUTES_MS)
    at.restart()
    at.answer = Confirmed
    at.run()
    assert len(at.batches[0]) == 1
    assert at.confirmed(*TERMINALS)


@pytest.mark.parametrize(("room", "step"), [("platforms", "report"), ("outbox", "settle")])
def test_dispatch_that_is_killed_while_it_begins_to_hold_back_a_platform_forgets_no_rejection(
    at, monkeypatch, room, step
):
    at.run()
    make_due(at.store, *range(1, 21))
    at.answer = lambda delivery: Rejected(delivery, "no")
    with monkeypatch.context() as patch:
        patch.setattr(getattr(at.mine, room), step, raising(StoreUnavailable("killed")))
        at.run()
    at.restart()
    at.answer = Confirmed
    at.run()
    assert at.confirmed(*range(1, 21))


def test_run_of_rejections_is_known_although_the_clock_was_set_back(at):
    make_due(at.store, 1)
    at.run()
    at.now -= HOUR_MS
    at.answer = lambda delivery: Rejected(delivery, "no")
    for number in range(2, 22):
        make_due(at.store, number, now=at.now)
        at.run(after_ms=1)
    at.restart()
    make_due(at.store, 22, now=at.now)
    at.answer = Confirmed
    at.run(after_ms=HOUR_MS)
    assert at.confirmed(*range(1, 23))


def test_platform_that_is_held_back_shows_its_next_try(at):
    reject_all(at, *range(1, 21))
    make_due(at.store, 21)
    at.answer = lambda delivery: TryLater(delivery, "busy")
    at.run(after_ms=TEN_MINUTES_MS)
    assert at.platform()["next_try_at"] == at.now + TEN_MINUTES_MS


def test_one_rejection_among_confirmations_stays(at):
    make_due(at.store, *TERMINALS)
    at.answer = lambda delivery: (
        Rejected(delivery, "no") if int(delivery.mdn[-3:]) % 2 else Confirmed(delivery)
    )  # fmt: skip
    assert at.run() == Ended(None)
    assert at.rejected(*[number for number in TERMINALS if number % 2])
    assert not at.platform()["held_back"]


def test_rejections_are_lifted_though_the_store_fails_just_then(at, monkeypatch):
    reject_all(at, *range(1, 21))
    make_due(at.store, 21)
    at.answer = Confirmed
    with monkeypatch.context() as patch:
        patch.setattr(at.mine.renewing, "again", raising(StoreUnavailable("disk full")))
        at.run(after_ms=TEN_MINUTES_MS)
    at.run(after_ms=TEN_MINUTES_MS)
    assert at.confirmed(*range(1, 22))


def test_row_that_cannot_be_sent_is_no_try_of_a_platform_that_is_held_back(at):
    reject_all(at, *range(1, 21))
    make_due(at.store, 21, 22)
    at.store.keys.suspend("KEY-21", "stolen")
    at.run(after_ms=TEN_MINUTES_MS)
    assert at.batches == [[mdn(22)]]


def test_rejection_of_a_version_that_is_no_longer_wanted_is_not_lifted(at):
    reject_all(at, *range(1, 21))
    at.store.bindings.withdraw(mdn(1), "meter", at.now)
    at.answer = Confirmed
    at.run(after_ms=TEN_MINUTES_MS)
    assert [type(delivery) for delivery in at.deliveries].count(Withdraw) == 1
    assert sum(delivery.mdn == mdn(1) for delivery in at.deliveries) == 1


# Rows that must not be sent


@pytest.mark.parametrize(
    ("app_id", "tampered", "why"),
    [
        ("alarm", "SELECT 1", "app alarm is not among the apps of platform metering"),
        ("meter", "UPDATE keys SET state = 'suspended' WHERE key_id = 'KEY-1'", "key KEY-1 is suspended"),
        ("meter", "UPDATE keys SET state = 'compromised' WHERE key_id = 'KEY-1'", "key KEY-1 is compromised"),
        ("meter", "UPDATE keys SET app = 'alarm' WHERE key_id = 'KEY-1'", "reserved for app alarm"),
        ("meter", "UPDATE keys SET app = 'meter' WHERE key_id = 'KEY-1'", "not as it was imported"),
        ("meter", "UPDATE keys SET ciphertext = x'00' WHERE key_id = 'KEY-1'", "not as it was imported"),
        ("meter", "UPDATE keys SET ciphertext = NULL WHERE key_id = 'KEY-1'", "destroyed"),
        ("meter", "UPDATE keys SET kcv = '000000' WHERE key_id = 'KEY-1'", "KCV of key KEY-1"),
        ("meter", "UPDATE data_keys SET sealed = x'00'", "was not sealed to master key"),
        (
            "meter",
            "UPDATE outbox SET key = (SELECT id FROM keys WHERE key_id = 'KEY-98')",
            "key KEY-98 is reserved for app alarm",
        ),
    ],
)
def test_what_must_not_be_sent_shows_why_and_waits_an_hour(at, app_id, tampered, why):
    make_due(at.store, 1, app_id=app_id)
    at.tamper(tampered)
    assert at.run() == Ended(None)
    assert (at.deliveries, at.channels) == ([], [])
    assert why in at.row(1, app_id)["error"]
    assert at.row(1, app_id)["try_at"] == at.now + HOUR_MS


def test_reservation_that_was_taken_away_in_the_database_is_noticed(at):
    at.tamper("UPDATE keys SET app = NULL WHERE key_id = 'KEY-98'")
    at.tamper("UPDATE keys SET key_id = 'KEY-0' WHERE key_id = 'KEY-1'")
    at.tamper("UPDATE keys SET key_id = 'KEY-1' WHERE key_id = 'KEY-98'")
    make_due(at.store, 1)
    at.run()
    assert at.deliveries == []


def test_row_that_cannot_be_sent_takes_no_neighbour(at):
    make_due(at.store, 1, 2, 3)
    at.tamper("UPDATE keys SET ciphertext = x'00' WHERE key_id = 'KEY-2'")
    at.run()
    assert at.confirmed(1, 3)
    assert at.row(2)["error"]


def test_stop_is_heeded_among_rows_that_cannot_be_sent(at, monkeypatch):
    def prepare(_row, _sealed):
        at.deliverer.stop()
        raise Unsendable("revoked")

    make_due(at.store, 1, 2, 3)
    monkeypatch.setattr(at.preparer, "prepare", prepare)
    at.run()
    assert [at.row(number)["error"] for number in (1, 2, 3)] == ["revoked", None, None]


def test_key_that_is_resumed_is_sent(at):
    make_due(at.store, 1)
    at.store.keys.suspend("KEY-1", "stolen")
    at.run()
    assert at.deliveries == []
    at.store.keys.resume("KEY-1", at.now)
    at.run()
    assert at.confirmed(1)


# Settling


def test_answers_are_settled_while_a_slow_platform_still_answers(at):
    make_due(at.store, 1, 2, 3, 4)
    seen = []

    def answer(delivery):
        at.elapsed_s += 0.26
        seen.append([number for number in (1, 2, 3, 4) if at.confirmed(number)])
        return Confirmed(delivery)

    at.answer = answer
    at.run()
    assert seen == [[], [], [1, 2], [1, 2]]
    assert at.confirmed(1, 2, 3, 4)


def test_quick_answers_are_settled_together(at, monkeypatch):
    make_due(at.store, 1)
    at.run()
    settled = []
    real = at.mine.outbox.settle
    monkeypatch.setattr(at.mine.outbox, "settle", lambda *args: (settled.append(len(args[1])), real(*args)))
    make_due(at.store, *range(2, 12))
    at.run()
    assert settled == [10]


def test_many_quick_answers_are_settled_in_short_transactions(at, monkeypatch):
    monkeypatch.setattr(delivering, "SETTLE_ROWS", 4)
    make_due(at.store, 99)
    at.run()
    settled = []
    real = at.mine.outbox.settle
    monkeypatch.setattr(at.mine.outbox, "settle", lambda *args: (settled.append(len(args[1])), real(*args)))
    make_due(at.store, *range(1, 11))
    at.run()
    assert settled == [4, 4, 2]


def test_deliveries_that_could_not_be_settled_go_again(at, monkeypatch, events):
    make_due(at.store, 1)
    at.run()
    make_due(at.store, 2, 3)
    with monkeypatch.context() as patch:
        patch.setattr(at.mine.outbox, "settle", raising(StoreUnavailable("disk full")))
        ended = at.run()
    assert ended == Ended("disk full", 5000)
    assert at.channels[-1].closed
    assert at.deliverer.failing
    assert any(event["log_level"] is LogLevel.error for event in events)
    at.run(after_ms=5000)
    assert at.batches == [[mdn(2)], [mdn(3)]]
    assert at.confirmed(2, 3)


def test_store_that_cannot_be_opened_is_tried_again(at, monkeypatch):
    make_due(at.store, 1)
    with monkeypatch.context() as patch:
        patch.setattr(at.deliverer, "_open_store", raising(StoreUnavailable("disk full")))
        assert at.run().wait_ms == 5000
    assert at.run(after_ms=5000) == Ended(None)
    assert at.confirmed(1)


def test_store_that_stays_away_is_told_of_every_ten_seconds(at, monkeypatch, events):
    monkeypatch.setattr(at.deliverer, "_open_store", raising(StoreUnavailable("disk full")))
    for _ in range(25):
        at.run()
        at.elapsed_s += 1.0
    assert len([event for event in events if event["log_level"] is LogLevel.error]) == 3


def test_store_that_stays_away_is_asked_less_often_but_twice_a_minute_at_the_least(at, monkeypatch):
    monkeypatch.setattr(at.deliverer, "_open_store", raising(StoreUnavailable("disk full")))
    assert [at.run().wait_ms / 1000 for _ in range(10)] == [5, 10, 20, 30, 30, 30, 30, 30, 30, 30]


def test_fault_of_ours_closes_the_connection_and_is_a_failure_like_any(at, events):
    """What is on the road would be taken for answers to the next deliveries."""
    make_due(at.store, 1, 2)
    at.answer = lambda _: RuntimeError("a fault of ours")
    assert [at.run().wait_ms / 1000 for _ in range(2)] == [5, 10]
    assert at.channels[0].closed
    assert not at.deliverer.is_open
    assert at.deliverer.failing
    shown = at.platform()
    assert shown["last_error"] == "a fault of ours, which the log shows: RuntimeError"
    assert (shown["last_error_at"], shown["next_try_at"]) == (at.now, at.now + 10_000)
    logged = [event for event in events if event["log_level"] >= LogLevel.warn]
    assert [type(event["log_failure"].value) for event in logged] == [RuntimeError, RuntimeError]
    at.answer = Confirmed
    assert at.run(after_ms=10_000) == Ended(None)
    assert at.confirmed(1, 2)
    assert at.platform()["last_error"] is None


@pytest.mark.parametrize("where", ["preparing", "answering"])
def test_row_with_which_we_fail_is_put_off_so_that_the_others_pass(at, monkeypatch, where):
    make_due(at.store, 1, 2, 3)
    if where == "answering":
        at.answer = answering(n1=lambda _: RuntimeError("a fault of ours"))
    else:
        prepare = at.preparer.prepare
        monkeypatch.setattr(
            at.preparer, "prepare", lambda row, sealed: 1 / 0 if row.mdn == mdn(1) else prepare(row, sealed)
        )
    for _ in range(6):
        at.run(after_ms=60_000)
    assert at.confirmed(2, 3)
    assert "a fault of ours" in at.row(1)["error"]


def test_row_of_an_earlier_try_is_no_suspect_of_a_fault_before_the_next(at, monkeypatch):
    make_due(at.store, 1)
    at.answer = lambda _: ChannelDown("crashed")
    at.run()
    with monkeypatch.context() as patch:
        patch.setattr(at.mine.outbox, "due", raising(RuntimeError("a fault of ours")))
        at.run(after_ms=5000)
    assert (at.row(1)["attempts"], at.row(1)["error"]) == (1, "crashed")


def test_row_that_was_not_sent_before_we_connected_is_no_suspect_of_a_fault_after_it(at, monkeypatch):
    make_due(at.store, 1)
    due = Outbox.due

    def failing(*asked):
        if at.channels:
            raise RuntimeError("a fault of ours")
        return due(*asked)

    monkeypatch.setattr(Outbox, "due", failing)
    assert at.run().error is not None
    assert at.row(1)["attempts"] == 0


def test_store_that_fails_with_a_fault_of_ours_is_a_failure_like_any(at, monkeypatch, events):
    make_due(at.store, 1)
    monkeypatch.setattr(at.deliverer, "_open_store", raising(RuntimeError("a fault of ours")))
    assert [at.run().wait_ms / 1000 for _ in range(3)] == [5, 10, 20]
    assert len([event for event in events if event["log_level"] is LogLevel.critical]) == 3


def test_what_was_seen_of_a_platform_stays_where_a_fault_of_ours_keeps_us_from_reading_it(at, monkeypatch):
    make_due(at.store, 1)
    seen = PlatformState("metering", last_success_at=NOW - 1, last_error="refused", last_error_at=NOW, held_back=True)
    at.store.platforms.report(seen)
    with monkeypatch.context() as patch:
        patch.setattr(Judge, "read", raising(RuntimeError("a fault of ours")))
        assert [at.run().wait_ms / 1000 for _ in range(3)] == [5, 10, 20]
    assert at.store.platforms.state("metering") == seen


def test_each_confirmation_is_said_to_who_asks_and_names_nobody(at, caplog, events):
    caplog.set_level(logging.DEBUG, judging.__name__)
    make_due(at.store, 1)
    at.run()
    (said,) = (event for event in events if event.get("event") == "delivery_confirmed")
    assert (said["platform"], said["mdn"], said["app"]) == ("metering", masked(mdn(1)), "meter")
    assert mdn(1) not in formatEvent(said)


# Ending


def test_stop_ends_a_run_after_its_present_deliveries(at):
    make_due(at.store, 1, 2)

    def answer(delivery):
        at.deliverer.stop()
        make_due(at.store, 3)
        return Confirmed(delivery)

    at.answer = answer
    assert at.run() == Ended(None)
    assert at.confirmed(1, 2)
    assert at.batches == [[mdn(1), mdn(2)]]
    assert at.run() == Ended(None)
    assert at.batches == []


def test_abort_ends_a_run_in_mid_delivery(at, events):
    make_due(at.store, 1, 2, 3)

    def answer(delivery):
        if delivery.mdn == mdn(2):
            thread = threading.Thread(target=at.deliverer.abort)
            thread.start()
            thread.join()
        return Confirmed(delivery)

    at.answer = answer
    assert at.run().error == "closed under it"
    assert at.confirmed(1)
    assert not at.confirmed(2)
    assert at.row(2)["try_at"] == NOW
    assert at.platform()["last_error"] is None  # the platform did nothing wrong
    assert [event for event in events if event["log_level"] >= LogLevel.warn] == []


def test_abort_while_a_connection_is_made_sends_nothing_over_it(at):
    make_due(at.store, 1)
    open_channel = at.deliverer._open_channel

    def aborted(cancel):
        channel = open_channel(cancel)
        at.deliverer.abort()
        return channel

    at.deliverer._open_channel = aborted
    assert at.run() == Ended(None)
    assert at.deliveries == []
    at.deliverer.close()
    assert at.channels[0].closed


@pytest.mark.parametrize("end", ["stop", "abort"])
def test_stop_ends_an_attempt_to_connect(at, end):
    make_due(at.store, 1)
    requested = []

    def connecting(cancel):
        requested.append(cancel.requested)
        getattr(at.deliverer, end)()
        requested.append(cancel.requested)
        raise ChannelDown("connecting was cancelled")

    at.deliverer._open_channel = connecting
    at.run()
    assert requested == [False, True]
    assert at.platform()["last_error"] is None


def test_abort_without_a_connection_is_nothing(at):
    at.deliverer.abort()
    at.deliverer.close()
    at.deliverer.close()


def test_idle_connection_is_used_again_until_it_is_closed(at):
    make_due(at.store, 1)
    at.run()
    assert at.deliverer.is_open
    make_due(at.store, 2)
    at.run()
    assert len(at.channels) == 1
    at.deliverer.close_channel()
    assert at.channels[0].closed
    assert not at.deliverer.is_open
    make_due(at.store, 3)
    at.run()
    assert len(at.channels) == 2


def test_closing_closes_connection_and_store(at):
    make_due(at.store, 1)
    at.run()
    at.deliverer.close()
    assert at.channels[0].closed
    with pytest.raises(Exception, match="closed"):
        at.mine.journal.tallies()


# Patience alone


def test_wait_is_jittered_between_a_half_and_all_of_its_step():
    waits = [Patience(retry_min_s=4.0, retry_max_s=60.0, jitter=lambda part=part: part).wait_ms(1) for part in (0, 1)]
    assert waits == [4000, 8000]


def test_wait_after_a_million_attempts_is_the_longest():
    assert Patience(retry_min_s=5.0, retry_max_s=900.0, jitter=lambda: 1.0).wait_ms(1_000_000) == 900_000


def test_key_that_is_revoked_while_we_connect_is_not_sent(at, monkeypatch):
    make_due(at.store, 1)
    opened = at._open_channel

    def slowly(cancel):
        at.store.keys.revoke("KEY-1", "stolen", at.now, compromised=True)
        return opened(cancel)

    monkeypatch.setattr(at.deliverer, "_open_channel", slowly)
    at.run()
    assert [type(delivery) for delivery in at.deliveries] == [Withdraw]


def test_no_key_is_in_clear_while_we_connect(at, monkeypatch):
    make_due(at.store, 1)
    opened, in_clear = at._open_channel, []

    def binds():
        gc.collect()
        return sum(isinstance(one, Bind) for one in gc.get_objects())

    def looking(cancel):
        in_clear.append(binds())
        return opened(cancel)

    monkeypatch.setattr(at.deliverer, "_open_channel", looking)
    before = binds()  # of other tests
    at.run()
    assert (in_clear, at.confirmed(1)) == ([before], True)


# What is counted


def test_every_answer_is_counted_with_the_time_that_it_took(at):
    for number in (1, 2, 3):
        make_due(at.store, number)

    def answer(delivery):
        at.elapsed_s += 0.5
        return Rejected(delivery, "no") if delivery.mdn == mdn(2) else Confirmed(delivery)

    at.answer, at.room = answer, 1
    at.run()
    counts = at.deliverer.counts
    assert (counts.confirmed, counts.rejections, counts.failures, counts.pushes) == (2, 1, 0, 3)
    assert counts.push_s == 1.5


def test_a_run_that_breaks_off_is_a_failure_but_not_one_that_was_stopped(at):
    make_due(at.store, 1)
    at.unreachable = ChannelDown("no road")
    at.run()
    assert at.deliverer.counts.failures == 1
    at.deliverer.stop()
    at.run(after_ms=HOUR_MS)
    assert at.deliverer.counts.failures == 1


def test_who_takes_a_platform_over_goes_on_counting(at):
    at.deliverer.counts = counts = judging.Counts(confirmed=1)
    make_due(at.store, 1)
    at.run()
    assert counts.confirmed == 2


def test_the_end_of_our_certificate_is_known_once_it_was_shown(at, monkeypatch):
    monkeypatch.setattr(ChannelByHand, "certificate_ends_at", 1_800_000_000.0)
    make_due(at.store, 1)
    assert at.deliverer.certificate_ends_at is None
    at.run()
    assert at.deliverer.certificate_ends_at == 1_800_000_000.0


def test_a_deliverer_that_was_stopped_goes_on_again(at):
    make_due(at.store, 1)
    at.deliverer.stop()
    assert at.run() == Ended(None)
    assert not at.confirmed(1)
    at.deliverer.again()
    at.run()
    assert at.confirmed(1)


def test_the_state_is_known_once_it_was_read(at):
    assert at.deliverer.state is None
    make_due(at.store, 1)
    at.run()
    assert at.deliverer.state.last_success_at == at.now
