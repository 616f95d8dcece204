"""What is looked up, how much of it at once, and what goes first."""

from __future__ import annotations

from itertools import islice

from kmp_smsd.channels.protocol import Bind, Confirmed, TryLater, Withdraw
from kmp_smsd.service import delivering
from kmp_smsd.service.delivering import Ended
from tests.service.vendor import make_due, mdn
from tests.storage.stock import NOW


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
