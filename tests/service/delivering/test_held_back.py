"""Rejections in a row: the platform is held back, tried now and then, and what lifts with the first confirmation."""

from __future__ import annotations

import pytest

from kmp_smsd.channels.protocol import ChannelDown, Confirmed, Rejected, TryLater, Withdraw
from kmp_smsd.service.delivering import FIRST_ROWS, MOST_ROWS, Ended
from kmp_smsd.service.preparing import Preparer
from kmp_smsd.storage import StoreUnavailable
from tests.service.by_hand import alarms
from tests.service.delivering.stage import HOUR_MS, TEN_MINUTES_MS, TERMINALS, raising
from tests.service.vendor import make_due, mdn
from tests.storage.stock import NOW


def reject_all(at, *numbers):
    make_due(at.store, *numbers)
    at.answer = lambda delivery: Rejected(delivery, "no")
    return at.run()


def test_platform_that_is_down_stays_held_back(at):
    reject_all(at, *range(1, 21))
    make_due(at.store, 21)
    at.unreachable = ChannelDown("refused")
    at.run(after_ms=TEN_MINUTES_MS)
    assert (at.platform()["held_back"], at.platform()["last_error"]) == (1, "refused")


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
