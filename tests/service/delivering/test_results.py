"""Confirmed, put off, outbid and rejected: what becomes of a delivery that was answered."""

from __future__ import annotations

import pytest

from kmp_smsd.channels.protocol import Confirmed, Rejected, TryLater, Withdraw
from kmp_smsd.service.delivering import Ended
from tests.service.by_hand import alarms
from tests.service.delivering.stage import HOUR_MS, answering
from tests.service.vendor import clear, make_due, mdn
from tests.storage.stock import NOW


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
