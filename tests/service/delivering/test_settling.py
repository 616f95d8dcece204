"""When answers are settled, and a store that fails, by a fault of ours too."""

from __future__ import annotations

import logging

from twisted.logger import LogLevel, formatEvent

from kmp_smsd.channels.protocol import Confirmed
from kmp_smsd.domain.shown import masked
from kmp_smsd.service import delivering, judging
from kmp_smsd.service.delivering import Ended
from kmp_smsd.service.judging import Judge
from kmp_smsd.storage import StoreUnavailable
from kmp_smsd.storage.platforms import PlatformState
from tests.service.delivering.stage import raising
from tests.service.vendor import make_due, mdn
from tests.storage.stock import NOW


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


def settled_at_once(at, monkeypatch):
    """How many deliveries each settling has from now on."""
    settled = []
    real = at.mine.outbox.settle
    monkeypatch.setattr(at.mine.outbox, "settle", lambda *args: (settled.append(len(args[1])), real(*args)))
    return settled


def test_quick_answers_are_settled_together(at, monkeypatch):
    make_due(at.store, 1)
    at.run()
    settled = settled_at_once(at, monkeypatch)
    make_due(at.store, *range(2, 12))
    at.run()
    assert settled == [10]


def test_many_quick_answers_are_settled_in_short_transactions(at, monkeypatch):
    monkeypatch.setattr(delivering, "SETTLE_ROWS", 4)
    make_due(at.store, 99)
    at.run()
    settled = settled_at_once(at, monkeypatch)
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
